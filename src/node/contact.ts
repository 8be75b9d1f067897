/**
 * First contact with the bus: the moment from which there is somebody to synchronise with (dmq.md 7.1). Kamailio's modules
 * send their sync requests then, to all nodes that they know, or with `init_with_single` to the one that answered first.
 *
 * Our peers are proved one by one, so "all" is not known with the first answer: we wait until every name that came with it
 * has answered or not, two seconds at most. Losing everybody makes the next answer a first contact again.
 */
import type { Duration, Instant } from "../core/time.ts";

/** Names of a healthy bus answer within a round trip; one that is lost is repeated after 0.5 s and 1.5 s. */
const SETTLE_MS: Duration = 2_000;

export class FirstContact {
  private state: "alone" | "settling" | "met" = "alone";
  private settledBy: Instant | undefined;
  private first = "";
  private readonly single: boolean;

  /** @param single  `init_with_single`: only the node that answered first counts */
  constructor(single: boolean) {
    this.single = single;
  }

  /** A peer answered and is active. */
  answered(uri: string, now: Instant): void {
    if (this.state !== "alone") return;
    this.state = "settling";
    this.first = uri;
    this.settledBy = this.single ? now : now + SETTLE_MS;
  }

  /** Nobody is active any more. */
  lost(): void {
    this.state = "alone";
    this.settledBy = undefined;
  }

  /** Somebody answered, and `check` has not said yet whom to synchronise with. */
  isSettling(): boolean {
    return this.state === "settling";
  }

  /**
   * @param busy    names are under way that may still become active peers
   * @param active  URIs of the active peers
   * @returns       whom to synchronise with, once for each first contact
   */
  check(busy: boolean, active: () => string[], now: Instant): string[] | undefined {
    if (!this.isSettling() || (busy && now < (this.settledBy as Instant))) return undefined;
    this.state = "met";
    this.settledBy = undefined;
    return this.single ? [this.first] : active();
  }

  nextTimeout(): Instant | undefined {
    return this.settledBy;
  }
}
