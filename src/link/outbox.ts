/**
 * The outbox (`dmq send --spool`, `dmq bcast --spool`): a message is stored, one item for each node, and then sent; what does not get
 * through goes out when the node is there again. One after the other for each node, in the order in which they were stored, always
 * with the same `X-DMQ-Id`.
 *
 * The queue is one like others (`dmq queue list`, `peek`, `dead`): its items have the node's URI as key and the channel that they go
 * to. What a node does not take is a dead letter with its reason, as is what was not delivered within its time to live.
 */
import type { Duration } from "../core/time.ts";
import type { OutcomeReport } from "../node/io.ts";
import { MESSAGE_ID_HEADER } from "../node/kdmq.ts";
import { checkMessage } from "../node/message.ts";
import { holderName } from "../queue/holder.ts";
import type { Added } from "../queue/operation.ts";
import { ensureQueue, type LinkHost, Sparing, type Store } from "./host.ts";
import { Line, MAX_FORWARDS_HEADER } from "./line.ts";

export const OUTBOX = "outbox";

/** A node that says 503 is asked again for about three days, if the time to live lets it. */
const DEFINITION = `name=${OUTBOX};expired=dead;max-tries=1000`;

/** How long a message may wait whose sender does not say. */
export const TTL_MS: Duration = 24 * 3_600_000;

/** How long a call waits for the first try whose sender does not say. */
const WAIT_MS: Duration = 5_000;

/** How long an id is known at least: who repeats a message that was short-lived does not mean another one. */
const DEDUPE_MS_MIN: Duration = 3_600_000;

/** Between two looks after the queue has changed: somebody may have put something back from its dead letters. */
const LOOK_MS: Duration = 2_000;

/** A store that is at rest does not look what has expired. */
const SWEEP_MS: Duration = 30_000;

export interface SpoolRequest {
  channel: string;
  body: Uint8Array;
  contentType: string;
  maxForwards?: number;
  /** One is made up if there is none; the same for all nodes. Who repeats it stores nothing again as long as the first may wait. */
  messageId?: string;
  /** How long it may wait. */
  ttlMs?: Duration;
  /** How long the call waits for the first try. */
  timeoutMs?: Duration;
}

/** How it ended; the second two for a message that an earlier call has stored under the same id. `undefined`: it is not over. */
export type SpoolEnd = OutcomeReport | { type: "delivered" } | { type: "dead"; reason: string } | undefined;

export interface Spooled {
  node: string;
  messageId: string;
  end: SpoolEnd;
}

export class Outbox {
  private readonly host: LinkHost;
  private readonly warnings: Sparing;
  private readonly stopping = new AbortController();
  /** By the node's URI. */
  private readonly lines = new Map<string, Line>();
  private readonly running = new Set<Promise<void>>();
  private readonly holder = holderName("outbox", true);
  private ends: (() => void)[] = [];
  private store: Promise<Store> | undefined;
  private sweeping: ReturnType<typeof setTimeout> | undefined;
  private looking: ReturnType<typeof setTimeout> | undefined;

  constructor(host: LinkHost) {
    this.host = host;
    this.warnings = new Sparing(host.log);
  }

  /** Goes on with what an earlier daemon has stored, if there is such a queue. @throws QueueError `storage` */
  async resume(): Promise<void> {
    const store = await this.host.queues.open();
    const queues = await store.perform({ type: "report" });
    if (queues.some(({ name }) => name === OUTBOX)) await this.open();
  }

  private open(): Promise<Store> {
    this.store ??= this.begin().catch((error) => {
      this.store = undefined;
      throw error;
    });
    return this.store;
  }

  private async begin(): Promise<Store> {
    const { queues, node } = this.host;
    await ensureQueue(queues, OUTBOX, DEFINITION);
    const store = await queues.open();
    this.ends = [
      node.on("peer-up", ({ peer }) => this.lineOf(peer.uri, store)?.wake()),
      store.onTouched((touched) => {
        if (touched.includes(OUTBOX)) this.lookSoon(store, LOOK_MS);
      }),
    ];
    this.lookSoon(store, 0);
    this.sweepIn(store, SWEEP_MS);
    return store;
  }

  /** Any writing makes the store look. */
  private sweepIn(store: Store, ms: Duration): void {
    clearTimeout(this.sweeping);
    if (this.stopping.signal.aborted) return;
    this.sweeping = setTimeout(() => {
      store.perform({ type: "release", holders: [] }).catch(() => {});
      this.sweepIn(store, SWEEP_MS);
    }, ms);
  }

  /**
   * Stores a message for each of the nodes and tries to send it.
   *
   * @param nodes  URIs as on their lines
   * @returns      once each has been tried, or waits for its node, or the time is over
   * @throws       UsageError for what cannot be sent, QueueError for what cannot be stored: then nothing is
   */
  async spool(request: SpoolRequest, nodes: readonly string[]): Promise<Spooled[]> {
    const { channel, body, contentType, maxForwards, ttlMs = TTL_MS, timeoutMs = WAIT_MS } = request;
    const messageId = request.messageId ?? crypto.randomUUID();
    checkMessage(channel, { contentType, messageId, ...(maxForwards !== undefined && { maxForwards }) });
    if (nodes.length === 0) return [];
    const store = await this.open();
    const headers = {
      [MESSAGE_ID_HEADER]: messageId,
      ...(maxForwards !== undefined && { [MAX_FORWARDS_HEADER]: String(maxForwards) }),
    };
    const dedupeMs = Math.max(ttlMs, DEDUPE_MS_MIN);
    const items = nodes.map((key) => ({
      ...{ key, value: body, contentType, headers, channel, ttlMs, dedupeMs },
      dedupe: `${messageId} ${channel} ${key}`,
    }));
    const added = await store.perform({ type: "add", queue: OUTBOX, items });
    if (ttlMs < SWEEP_MS) this.sweepIn(store, ttlMs + 1);
    const over = AbortSignal.timeout(timeoutMs);
    const ends = nodes.map((node, index) => this.endOf(store, node, added[index] as Added, over));
    const ended = await Promise.all(ends);
    return nodes.map((node, index) => ({ node, messageId, end: ended[index] }));
  }

  private async endOf(store: Store, node: string, { seq, stored }: Added, over: AbortSignal): Promise<SpoolEnd> {
    if (stored !== "repeated" || this.lines.get(node)?.has(seq) === true) return this.follow(store, node, seq, over);
    const [waiting] = await store.perform({ type: "peek", queue: OUTBOX, count: 1, key: node, after: seq - 1 });
    if (waiting?.seq === seq || this.lines.get(node)?.has(seq) === true) return this.follow(store, node, seq, over);
    const [dead] = await store.perform({ type: "dead", queue: OUTBOX, count: 1, seq });
    return dead === undefined ? { type: "delivered" } : { type: "dead", reason: dead.reason };
  }

  private follow(store: Store, node: string, seq: number, over: AbortSignal): Promise<OutcomeReport | undefined> {
    const line = this.lineOf(node, store);
    if (line === undefined) return Promise.resolve(undefined);
    const { promise, resolve } = Promise.withResolvers<OutcomeReport | undefined>();
    line.follow(seq, resolve);
    over.addEventListener("abort", () => line.unfollow(seq), { once: true });
    line.wake();
    return promise;
  }

  /** @returns the line of a node that is active, which runs */
  private lineOf(uri: string, store: Store): Line | undefined {
    const known = this.lines.get(uri);
    if (known !== undefined) return known;
    const { node } = this.host;
    const isActive = node.nodes().some((peer) => peer.uri === uri && peer.status === "active");
    const { signal } = this.stopping;
    if (signal.aborted || !isActive) return undefined;
    const { warnings, holder } = this;
    const line = new Line(uri, { node, store, warnings, queue: OUTBOX, holder, signal });
    this.lines.set(uri, line);
    const run = line
      .run(() => this.lines.delete(uri))
      .catch((error: Error) => this.warnings.warn("outbox", `outbox, ${uri}: ${error.message}`));
    this.running.add(run);
    run.finally(() => this.running.delete(run));
    return line;
  }

  private lookSoon(store: Store, afterMs: Duration): void {
    if (this.stopping.signal.aborted) return;
    this.looking ??= setTimeout(() => {
      this.looking = undefined;
      for (const { uri, status } of this.host.node.nodes()) if (status === "active") this.lineOf(uri, store);
    }, afterMs);
  }

  /** What is under way is given up, and goes out again with the next daemon. */
  async close(): Promise<void> {
    this.stopping.abort();
    clearTimeout(this.looking);
    clearTimeout(this.sweeping);
    for (const end of this.ends) end();
    await Promise.all(this.running);
  }
}
