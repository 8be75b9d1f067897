/**
 * Time is an argument below the driver: an Instant is milliseconds of a clock that never runs back, with an origin that
 * means nothing. Wall-clock time exists only at the edges (logs, JSON), where the driver adds it.
 */
export type Instant = number;

/** Milliseconds. */
export type Duration = number;

const UNIT_MS: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 };

/**
 * Reads what an operator types: `500ms`, `2s`, `1.5s`, `1m`, `1h`; a bare number is seconds, as in Kamailio's parameters.
 *
 * @returns milliseconds, or `undefined` where the text is no such duration
 */
export function parseDuration(text: string): Duration | undefined {
  const match = /^(\d{1,12}(?:\.\d{1,6})?)(ms|s|m|h)?$/.exec(text);
  if (match === null) return undefined;
  return Number(match[1]) * (UNIT_MS[match[2] ?? "s"] as number);
}
