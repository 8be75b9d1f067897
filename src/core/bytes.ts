/** Octets: text in and out, search and comparison, without a string in between where none is needed. */
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

export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
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
