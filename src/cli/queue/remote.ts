/**
 * The daemon's queues, over the control socket: operations as `queue.*` (docs/RPC.md), leases that last as long as the connection of a
 * stream.
 */

import type { Fate, Supply, SupplyRequest, Take } from "../../consume/supply.ts";
import { encodeUtf8, strictUtf8 } from "../../core/bytes.ts";
import { RpcError } from "../../core/errors.ts";
import type {
  Added,
  AnswerOf,
  Answers,
  DeadItem,
  Item,
  NewItem,
  Operation,
  QueueReport,
  Sizes,
} from "../../queue/operation.ts";
import { RpcClient } from "../../rpc/client.ts";
import type { ItemRow } from "../../rpc/queue-methods.ts";
import { ANSWER_MS_MAX } from "../socket.ts";
import type { Lease, Queues } from "./queues.ts";

/** Fault code of what is not there: a lease that is over, say. */
const NOT_FOUND = 404;

/** The longest that the daemon waits for an item in one call. */
const WAIT_MS_MAX = 60_000;

type Of<T extends Operation["type"]> = Operation & { type: T };

export class RemoteQueues implements Queues {
  readonly socketPath: string;
  private readonly client: RpcClient;

  constructor(socketPath: string) {
    this.socketPath = socketPath;
    this.client = new RpcClient(socketPath);
  }

  async perform<O extends Operation>(operation: O): Promise<AnswerOf<O>> {
    return (await this.call(operation)) as AnswerOf<O>;
  }

  private call(operation: Operation): Promise<unknown> {
    switch (operation.type) {
      case "add":
        return this.client.call("queue.add", addParams(operation));
      case "fail":
        return this.fail(operation);
      case "peek":
        return this.rows<Item>("queue.peek", operation);
      case "dead":
        return this.rows<DeadItem>("queue.dead", operation);
      case "report":
        return this.report(operation);
      case "sizes":
        return this.client.call<SizesRow>("queue.sizes", { queue: operation.queue }).then(sizesOf);
      case "check":
        return this.check();
      case "lease":
      case "holders":
        throw new Error(`${operation.type} is none of the commands' operations`);
      case "move":
        return this.move(operation);
      default: {
        const { type, ...params } = operation;
        return this.client.call(`queue.${type.replaceAll("-", "_")}`, snakeCase(params));
      }
    }
  }

  /** Without a count it is all of them. */
  private move({ from, to, count, key }: Of<"move">): Promise<number> {
    const isAll = count === Number.MAX_SAFE_INTEGER;
    return this.client.call("queue.move", { from, to, ...(!isAll && { count }), ...(key !== undefined && { key }) });
  }

  private async rows<T extends Item>(method: string, { type: _, ...params }: Of<"peek"> | Of<"dead">): Promise<T[]> {
    return (await this.client.call<ItemRow[]>(method, params)).map(itemOf) as T[];
  }

  private async fail({ failures }: Of<"fail">): Promise<Answers["fail"]> {
    const ends: Answers["fail"] = [];
    for (const { id, ...fate } of failures)
      ends.push(...(await this.client.call<Answers["fail"]>("queue.nack", { ids: [id], ...snakeCase(fate) })));
    return ends;
  }

  private async report({ queue }: Of<"report">): Promise<QueueReport[]> {
    if (queue === undefined) return (await this.client.call<ReportRow[]>("queue.list")).map(reportOf);
    return [reportOf(await this.client.call<ReportRow>("queue.stats", { queue }))];
  }

  private async check(): Promise<Answers["check"]> {
    const { file_bytes: fileBytes, free_bytes: freeBytes, ...found } = await this.client.call<CheckRow>("queue.check");
    return { ...found, fileBytes, freeBytes };
  }

  define(definition: string): Promise<Answers["define"]> {
    return this.client.call("queue.define", { definition });
  }

  add(operation: Of<"add">, timeoutMs: number): Promise<Added[]> {
    return this.client.call("queue.add", { ...addParams(operation), timeout_ms: timeoutMs });
  }

  async lease({ waitMs, leaseMs, ...request }: Lease, signal: AbortSignal): Promise<Item[]> {
    const deadline = performance.now() + waitMs;
    for (;;) {
      const left = Math.max(0, deadline - performance.now());
      const params = { ...request, lease_ms: leaseMs, wait_ms: Math.ceil(Math.min(left, WAIT_MS_MAX)) };
      const rows = await this.client
        .call<ItemRow[]>("queue.lease", params, { signal })
        .catch((error: unknown): ItemRow[] => {
          if (signal.aborted) return [];
          throw error;
        });
      if (rows.length > 0 || left <= WAIT_MS_MAX || signal.aborted) return rows.map(itemOf);
    }
  }

  supply(request: SupplyRequest): Supply {
    return new StreamSupply(this.client, request);
  }

  async close(): Promise<void> {}
}

type SizesRow = Omit<Sizes, "oldestMs"> & { oldest_ms: number | null };
type ReportRow = Omit<QueueReport, "oldestMs" | "definition"> & SizesRow & { definition: object };
type CheckRow = Omit<Answers["check"], "fileBytes" | "freeBytes"> & { file_bytes: number; free_bytes: number };

function sizesOf<T extends SizesRow>({
  oldest_ms: oldestMs,
  ...rest
}: T): Omit<T, "oldest_ms"> & { oldestMs: number | null } {
  return { ...rest, oldestMs };
}

function reportOf(row: ReportRow): QueueReport {
  const members = Object.entries(row.definition).map(([name, value]) => [
    name.replaceAll(/_([a-z])/g, (_, letter: string) => letter.toUpperCase()),
    value,
  ]);
  return { ...sizesOf(row), definition: Object.fromEntries(members) };
}

function snakeCase(params: object): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(params).map(([name, value]) => [
      name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
      value,
    ]),
  );
}

function addParams({ queue, items }: Of<"add">): { queue: string; items: object[] } {
  return { queue, items: items.map(newRow) };
}

function newRow({ value, ...rest }: NewItem): object {
  const text = strictUtf8(value);
  return { ...snakeCase(rest), ...(text === undefined ? { value_base64: base64(value) } : { value: text }) };
}

function base64(octets: Uint8Array): string {
  return Buffer.from(octets).toString("base64");
}

function itemOf(row: ItemRow): Item | DeadItem {
  const { id, seq, queue, key, value, value_base64: coded = "", headers, path, from, channel, tries } = row;
  return {
    ...{ id, seq, queue, key, headers, path, from, channel, tries },
    value: value === undefined ? new Uint8Array(Buffer.from(coded, "base64")) : encodeUtf8(value),
    contentType: row.content_type,
    addedAt: Date.parse(row.added),
    dueAt: Date.parse(row.due),
    ...(row.reason !== undefined && {
      reason: row.reason,
      exitCode: row.exit_code ?? null,
      stderr: row.stderr ?? "",
      diedAt: Date.parse(row.died as string),
    }),
  };
}

/** What the stream of leases says besides items. */
type StreamLine =
  | ItemRow
  | { type: "empty" }
  | { type: "taken" }
  | { type: "error"; error: { code: number; message: string; data?: unknown } };

/** Items that were leased together: theirs is one stream, whose end gives back what is not settled. */
interface Taken {
  left: Set<string>;
  end(): void;
}

/**
 * Each question is a stream `GET /queue/NAME/lease?once=1` of its own, which stays open until its items are settled: what this process
 * did not ask for is never leased to it.
 */
class StreamSupply implements Supply {
  private readonly client: RpcClient;
  private readonly path: string;
  private readonly taken = new Map<string, Taken>();

  constructor(client: RpcClient, { queue, leaseMs, orderByKey, key }: SupplyRequest) {
    this.client = client;
    const params = new URLSearchParams({ once: "1", lease_ms: String(leaseMs) });
    if (orderByKey === true) params.set("order_by_key", "1");
    if (key !== undefined) params.set("key", key);
    this.path = `/queue/${encodeURIComponent(queue)}/lease?${params}`;
  }

  async next({ max, waitMs, signal }: Take): Promise<Item[]> {
    if (signal.aborted) return [];
    const ending = new AbortController();
    const onAbort = (): void => ending.abort();
    signal.addEventListener("abort", onAbort);
    const timer = waitMs > 0 && waitMs < 2 ** 31 ? setTimeout(onAbort, waitMs) : undefined;
    const lines = this.client.stream(`${this.path}&count=${max}`, ending.signal);
    try {
      const items = await this.read(lines as AsyncGenerator<StreamLine>, waitMs === 0);
      if (items === undefined && !ending.signal.aborted) throw this.error("the daemon ended");
      // The stream is left open on purpose: it is the lease.
      if (items !== undefined && items.length > 0) this.keep(items, ending);
      else ending.abort();
      return items ?? [];
    } catch (error) {
      ending.abort();
      throw error;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", onAbort);
    }
  }

  /** @returns `undefined` where the stream ended */
  private async read(lines: AsyncGenerator<StreamLine>, isHasty: boolean): Promise<Item[] | undefined> {
    const items: Item[] = [];
    for (let step = await lines.next(); step.done !== true; step = await lines.next()) {
      const line = step.value;
      if (!("type" in line)) items.push(itemOf(line));
      else if (line.type === "taken" || (line.type === "empty" && isHasty)) return items;
      else if (line.type === "error")
        throw this.error(line.error.message, { fault: line.error.code, data: line.error.data });
    }
    return undefined;
  }

  private keep(items: readonly Item[], ending: AbortController): void {
    const taken: Taken = { left: new Set(items.map(({ id }) => id)), end: () => ending.abort() };
    for (const { id } of items) this.taken.set(id, taken);
  }

  /** The last one of those that were taken together ends their stream. */
  private settled(items: readonly Pick<Item, "id">[]): void {
    for (const { id } of items) {
      const taken = this.taken.get(id);
      this.taken.delete(id);
      taken?.left.delete(id);
      if (taken?.left.size === 0) taken.end();
    }
  }

  private error(message: string, more: { fault?: number; data?: unknown } = {}): RpcError {
    const code = more.fault === undefined ? "rpc-unreachable" : "rpc-fault";
    return new RpcError(code, message, { method: this.path, socketPath: this.client.socketPath, ...more });
  }

  async ack(items: readonly Item[]): Promise<number> {
    try {
      const done = await this.client.call<number>("queue.ack", { ids: items.map(({ id }) => id) }).catch(unlessLost);
      if (done !== undefined) return done;
      let count = 0;
      for (const { id } of items)
        count += (await this.client.call<number>("queue.ack", { ids: [id] }).catch(unlessLost)) ?? 0;
      return count;
    } finally {
      this.settled(items);
    }
  }

  async fail(items: readonly Pick<Item, "id">[], fate: Fate): Promise<("retried" | "dead" | "lost")[]> {
    const ends: ("retried" | "dead" | "lost")[] = [];
    try {
      for (const { id } of items) {
        const params = { ids: [id], ...snakeCase(fate) };
        const [end] = (await this.client.call<Answers["fail"]>("queue.nack", params).catch(unlessLost)) ?? [];
        ends.push(end ?? "lost");
      }
      return ends;
    } finally {
      this.settled(items);
    }
  }

  /** The end of their streams gives them back, too, but counts the delivery. */
  async end(): Promise<void> {
    const left = [...this.taken.keys()];
    if (left.length === 0) return;
    const params = { ids: left, fate: "now", counts: false };
    await this.client.call("queue.nack", params, { timeoutMs: ANSWER_MS_MAX }).catch(() => undefined);
    this.settled(left.map((id) => ({ id })));
  }
}

/** @returns `undefined` for an item whose lease is over */
function unlessLost(error: unknown): undefined {
  if (!(error instanceof RpcError) || error.fault !== NOT_FOUND) throw error;
  return undefined;
}
