/** The content type of a body that nobody named one for. */

const STRICT_UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** @returns `undefined` for octets that are no UTF-8; a byte order mark is a character of the text */
export function utf8Of(octets: Uint8Array): string | undefined {
  try {
    return STRICT_UTF8.decode(octets);
  } catch {
    return undefined;
  }
}

/** @returns `application/json` if it parses as that, else `text/plain` if it is UTF-8, else `application/octet-stream` (amqp.md B2) */
export function contentTypeOf(body: Uint8Array): string {
  const text = utf8Of(body);
  if (text === undefined) return "application/octet-stream";
  try {
    JSON.parse(text);
    return "application/json";
  } catch {
    return "text/plain";
  }
}
