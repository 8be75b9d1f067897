/**
 * Where a message has been: the ids of the links that it went through, `node/link`, oldest first. They are kept with the item, and
 * travel as `X-DMQ-Path`; by them a link knows what it has had before (queue.md B9).
 */

/** A message that went through so many links goes no further. */
export const HOPS_MAX = 8;

/** Longer ones are none of ours: links make ids of at most that. */
const ID_CHARS_MAX = 200;

/** What stands for a path that nobody of ours wrote: it goes no further. */
const UNREADABLE: readonly string[] = new Array(HOPS_MAX).fill("?");

/** @param header  value of `X-DMQ-Path`, whoever wrote it */
export function readPath(header: string | undefined): readonly string[] {
  if (header === undefined) return [];
  if (header.length > HOPS_MAX * (ID_CHARS_MAX + 2)) return UNREADABLE;
  const ids = header.split(",").map((id) => id.trim());
  const isOurs = ids.every((id) => id.length <= ID_CHARS_MAX && /^[\x21-\x7e]+$/.test(id));
  return isOurs ? ids : UNREADABLE;
}

export function writePath(path: readonly string[]): string {
  return path.join(", ");
}

/** @returns why a link does not take a message with this path, `undefined` if it does */
export function loopIn(path: readonly string[], id: string): string | undefined {
  if (path.includes(id)) return `it has been through ${id} before`;
  return path.length >= HOPS_MAX ? `it went through ${path.length} links, ${HOPS_MAX} are the most` : undefined;
}

/** @param uri  of the node: `sip:192.0.2.1:5060` */
export function linkId(uri: string, name: string): string {
  return `${uri.replace(/^sips?:/, "")}/${name}`;
}

/** Longer names of buses and exchanges stand as a digest, so that an id stays within its bounds. */
const PLACE_CHARS_MAX = 48;

/** @param name  of the bus (`--bus`) */
export function busPlace(name: string): string {
  return `bus=${bounded(name)}`;
}

/** An exchange is known by its zone and its name, on whichever broker of the zone it is. */
export function exchangePlace(zone: string, name: string): string {
  return `exchange=${bounded(`${zone}:${name}`)}`;
}

/** @param place  that the message is taken from */
export function placeId(place: string, name: string): string {
  return `${place}/${name}`;
}

/** Whether a message was taken from there by any link of any node (amqp.md B9). */
export function hasBeenIn(path: readonly string[], place: string): boolean {
  return path.some((id) => id.startsWith(`${place}/`));
}

function bounded(text: string): string {
  const encoded = encodeURIComponent(text);
  if (encoded.length <= PLACE_CHARS_MAX) return encoded;
  return new Bun.CryptoHasher("sha256").update(text).digest("hex").slice(0, PLACE_CHARS_MAX);
}
