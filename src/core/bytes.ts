/** Octets: text in and out, and put together. */
const ENCODER = new TextEncoder();
const DECODER = new TextDecoder();

export const EMPTY: Uint8Array = new Uint8Array(0);

export function encodeUtf8(text: string): Uint8Array {
  return ENCODER.encode(text);
}

/** Invalid UTF-8 becomes U+FFFD: a log line or a view must never fail on remote octets. */
export function decodeUtf8(bytes: Uint8Array): string {
  return DECODER.decode(bytes);
}

export function concatBytes(parts: readonly Uint8Array[]): Uint8Array {
  let length = 0;
  for (const part of parts) length += part.length;
  const whole = new Uint8Array(length);
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}
