/** What links and the outbox need of the daemon around them; a `RunningNode` is the node. */
import type { Logger } from "../core/logger.ts";
import type { OutcomeReport, PeerInfo } from "../node/io.ts";
import type { SendOptions } from "../node/node.ts";
import type { QueueStore } from "../queue/store.ts";

export interface LinkNode {
  /** Our own URI. */
  uri(): string;
  nodes(): PeerInfo[];
  /** @throws UsageError for a node that is not known (`no-such-node`), or a message that cannot be sent */
  send(
    channel: string,
    node: string,
    body: Uint8Array,
    options: SendOptions & { signal?: AbortSignal },
  ): Promise<OutcomeReport>;
  on(
    type: "peer-up" | "peer-down" | "peer-disabled" | "peer-removed",
    listener: (event: { peer: PeerInfo }) => void,
  ): () => void;
}

export type Store = Pick<QueueStore, "perform" | "onTouched">;

/** The queues of the daemon. */
export interface LinkQueues {
  /** Opens the store if it is not open yet. @throws QueueError `storage` */
  open(): Promise<Store>;
  /** Makes or changes a queue, with the defaults of the configuration. */
  define(definition: string): Promise<unknown>;
}

export interface LinkHost {
  node: LinkNode;
  queues: LinkQueues;
  log: Logger;
}

/** Makes a queue unless it is there: what the operator said of it stands. */
export async function ensureQueue(queues: LinkQueues, name: string, definition: string = name): Promise<void> {
  const store = await queues.open();
  const known = await store.perform({ type: "report" });
  if (!known.some((queue) => queue.name === name)) await queues.define(definition);
}

/** Milliseconds between two lines of one kind in the log. */
const QUIET_MS = 10_000;

/** Warnings that a remote could make come in floods: one of a kind in ten seconds, with how many were left out. */
export class Sparing {
  private readonly last = new Map<string, { at: number; held: number }>();
  private readonly log: Logger;

  constructor(log: Logger) {
    this.log = log;
  }

  warn(kind: string, text: string, fields: Record<string, string | number | undefined> = {}): void {
    const now = performance.now();
    const last = this.last.get(kind);
    if (last !== undefined && now - last.at < QUIET_MS) {
      last.held++;
      return;
    }
    const more = last === undefined || last.held === 0 ? "" : ` (${last.held} more of this kind since the last one)`;
    this.last.set(kind, { at: now, held: 0 });
    this.log.warn(text + more, fields);
  }
}
