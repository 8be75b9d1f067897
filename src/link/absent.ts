/**
 * Nodes that the registry has forgotten because they were silent, or had left: `dmq bcast --spool` is for whoever is down, and who is
 * down for long is in no list. They are remembered for as long as a message waits in the outbox when nobody says how long.
 */
import type { Duration } from "../core/time.ts";
import type { PeerInfo } from "../node/io.ts";
import type { LinkNode } from "./host.ts";

/** As many as the list is likely to have had. Beyond it the oldest go. */
export const ABSENT_MAX = 256;
export const ABSENT_MS: Duration = 24 * 3_600_000;

export class Absent {
  /** When it was forgotten, by URI, the oldest first. */
  private readonly since = new Map<string, number>();
  private readonly now: () => number;

  constructor(node: Pick<LinkNode, "on">, now: () => number = () => performance.now()) {
    this.now = now;
    node.on("peer-removed", ({ peer }) => this.gone(peer));
    node.on("peer-up", ({ peer }) => void this.since.delete(peer.uri));
  }

  /** What somebody merely told us of, and never answered, was no node. Those of the snapshot answered an earlier daemon. */
  private gone({ uri, verified, source }: PeerInfo): void {
    if (!verified && source !== "snapshot") return;
    this.since.delete(uri);
    this.since.set(uri, this.now());
    if (this.since.size > ABSENT_MAX) this.since.delete(this.since.keys().next().value as string);
  }

  /** The operator has removed it. @returns false where it was not remembered */
  forget(uri: string): boolean {
    return this.since.delete(uri);
  }

  uris(): string[] {
    const oldest = this.now() - ABSENT_MS;
    for (const [uri, since] of this.since) if (since < oldest) this.since.delete(uri);
    return [...this.since.keys()];
  }
}
