/** What waits in the outbox for one node: sent one after the other, for as long as the node is active and there is anything. */
import { UsageError } from "../core/errors.ts";
import type { Duration } from "../core/time.ts";
import type { OutcomeReport } from "../node/io.ts";
import { MESSAGE_ID_HEADER } from "../node/kdmq.ts";
import type { Failure, Item } from "../queue/operation.ts";
import { answerOf } from "./answers.ts";
import type { LinkNode, Sparing, Store } from "./host.ts";

const LEASE_MS: Duration = 60_000;
const RENEW_MS: Duration = LEASE_MS / 3;

/** After a try that had no answer: by then a ping has shown whether the node is there. */
const SILENT_MS: Duration = 2_000;
const SLEEP_MS_MAX: Duration = 60_000;

export const MAX_FORWARDS_HEADER = "Max-Forwards";

/** `undefined`: it is stored, and not over. */
export type Settled = (report: OutcomeReport | undefined) => void;

export interface LineHost {
  node: LinkNode;
  store: Store;
  warnings: Sparing;
  queue: string;
  /** Who has the leases. */
  holder: string;
  signal: AbortSignal;
}

export class Line {
  readonly uri: string;
  private readonly host: LineHost;
  /** By the item's number: who waits for how it ends. */
  private readonly waiting = new Map<number, Settled[]>();
  private underWay: number | undefined;
  private isAsleep = false;
  private isWoken = false;
  private ring: () => void = () => {};

  constructor(uri: string, host: LineHost) {
    this.uri = uri;
    this.host = host;
  }

  /** Says how an item ended that was stored just now; at once, if it is behind one that waits for its next try. */
  follow(seq: number, settled: Settled): void {
    if (this.isAsleep) settled(undefined);
    else this.waiting.set(seq, [...(this.waiting.get(seq) ?? []), settled]);
  }

  /** Nobody waits for it any more. */
  unfollow(seq: number): void {
    this.settle(seq, undefined);
  }

  /** There may be something to do. */
  wake(): void {
    this.isWoken = true;
    this.ring();
  }

  /**
   * Sends what there is.
   *
   * @param over  called when there is nothing more to do, in the same breath
   */
  async run(over: () => void): Promise<void> {
    const { store, queue, holder, signal } = this.host;
    try {
      while (!signal.aborted && this.isActive()) {
        this.isWoken = false;
        const lease = { type: "lease" as const, queue, count: 1, leaseMs: LEASE_MS, holder, key: this.uri };
        const [item] = await store.perform({ ...lease, orderByKey: true });
        if (item !== undefined) await this.deliver(item);
        // Asked once more: who stored something meanwhile has not looked whether this line ends.
        else if (!(await this.waitForNext()) && !this.isWoken) break;
      }
    } finally {
      over();
      this.settleAll();
    }
  }

  private isActive(): boolean {
    return this.host.node.nodes().some(({ uri, status }) => uri === this.uri && status === "active");
  }

  /** @returns false where there is nothing to wait for */
  private async waitForNext(): Promise<boolean> {
    const [next] = await this.host.store.perform({ type: "peek", queue: this.host.queue, count: 1, key: this.uri });
    if (this.isWoken) return true;
    if (next === undefined) return false;
    await this.sleep(Math.max(10, next.dueAt - Date.now()));
    return true;
  }

  private async sleep(ms: Duration): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.ring = resolve;
    this.isAsleep = true;
    this.settleAll();
    const timer = setTimeout(resolve, Math.min(ms, SLEEP_MS_MAX));
    const { signal } = this.host;
    signal.addEventListener("abort", this.abort);
    if (signal.aborted) resolve();
    await promise;
    signal.removeEventListener("abort", this.abort);
    clearTimeout(timer);
    this.isAsleep = false;
  }

  private readonly abort = (): void => this.ring();

  /** It is just being sent. */
  has(seq: number): boolean {
    return this.underWay === seq;
  }

  private async deliver(item: Item): Promise<void> {
    const { store } = this.host;
    this.underWay = item.seq;
    const extend = { type: "extend" as const, ids: [item.id], leaseMs: LEASE_MS };
    const renewal = setInterval(() => void store.perform(extend).catch(() => {}), RENEW_MS);
    try {
      await this.settleItem(item, await this.send(item));
    } finally {
      clearInterval(renewal);
      this.underWay = undefined;
    }
  }

  /** @returns how it ended, or why it cannot be sent */
  private async send(item: Item): Promise<OutcomeReport | UsageError> {
    const { node, signal } = this.host;
    const hops = item.headers[MAX_FORWARDS_HEADER];
    const messageId = item.headers[MESSAGE_ID_HEADER];
    try {
      return await node.send(item.channel ?? "", this.uri, item.value, {
        contentType: item.contentType,
        signal,
        ...(messageId !== undefined && { messageId }),
        ...(hops !== undefined && { maxForwards: Number(hops) }),
      });
    } catch (error) {
      if (error instanceof UsageError) return error;
      throw error;
    }
  }

  private async settleItem(item: Item, ended: OutcomeReport | UsageError): Promise<void> {
    if (ended instanceof UsageError) {
      const gone = ended.code === "no-such-node";
      await this.fail(item, gone ? { fate: "now", counts: false } : { fate: "dead", reason: ended.message });
      return this.settle(item.seq, undefined);
    }
    const answer = answerOf(ended);
    switch (answer.type) {
      case "delivered":
        await this.host.store.perform({ type: "ack", ids: [item.id] }).catch(unlessLost);
        return this.settle(item.seq, ended);
      case "absent":
      case "refused":
        this.host.warnings.warn("outbox-dead", `outbox: ${this.uri} does not take a message: ${answer.text}`);
        await this.fail(item, { fate: "dead", reason: answer.text });
        return this.settle(item.seq, ended);
      case "later": {
        const { afterMs, text: reason } = answer;
        await this.fail(item, { fate: "retry", reason, ...(afterMs !== undefined && { delayMs: afterMs }) });
        return this.settleAll();
      }
      case "silent":
        await this.fail(item, { fate: "retry", counts: false, delayMs: SILENT_MS, reason: answer.text });
        return this.settleAll();
      case "cancelled":
        await this.fail(item, { fate: "now", counts: false });
        return this.settleAll();
    }
  }

  private async fail(item: Item, failure: Omit<Failure, "id">): Promise<void> {
    await this.host.store.perform({ type: "fail", failures: [{ ...failure, id: item.id }] }).catch(unlessLost);
  }

  private settle(seq: number, report: OutcomeReport | undefined): void {
    const waiting = this.waiting.get(seq) ?? [];
    this.waiting.delete(seq);
    for (const settled of waiting) settled(report);
  }

  /** What is behind one that is not through is not through either. */
  private settleAll(): void {
    for (const seq of [...this.waiting.keys()]) this.settle(seq, undefined);
  }
}

/** A lease that ran out is no failure of ours: whoever has the item now settles it. */
function unlessLost(error: unknown): void {
  if ((error as { code?: string }).code !== "no-such-item") throw error;
}
