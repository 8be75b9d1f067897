/** What a link has done since the daemon began, in the words of `dmq status`. */
export interface LinkStatus {
  name: string;
  from: string;
  to: string;
  /** Messages, or deliveries of items, that it was given. */
  in: number;
  /** Those that the other end has taken. */
  out: number;
  /** Those that it has not: answered 503 or 413; tried again later or a dead letter. */
  failed: number;
  /** Those that it did not pass on, or not yet, because they would go round. */
  held_back: number;
  /** Of a link with a broker at one end: whether it publishes or stands by, whether it consumes or why not. */
  state?: string;
}

export class Counters {
  in = 0;
  out = 0;
  failed = 0;
  heldBack = 0;
}
