/** The content type of a body that nobody named one for. */
import { strictUtf8 } from "../core/bytes.ts";

/** @returns `application/json` if it parses as that, else `text/plain` if it is UTF-8, else `application/octet-stream` (amqp.md B2) */
export function contentTypeOf(body: Uint8Array): string {
  const text = strictUtf8(body);
  if (text === undefined) return "application/octet-stream";
  try {
    JSON.parse(text);
    return "application/json";
  } catch {
    return "text/plain";
  }
}
