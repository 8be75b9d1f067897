/**
 * What the commands of queues ask: the daemon, where one answers on the control socket, else the store's file in this process
 * (queue.md B3). Both do the same operations, and a command does not know the difference.
 */
import type { Supply, SupplyRequest } from "../../consume/supply.ts";
import type { Added, AnswerOf, Answers, Item, Operation } from "../../queue/operation.ts";
import type { OptionSpec } from "../command.ts";

export type Lease = { queue: string; count: number; leaseMs: number; waitMs: number };

export interface Queues {
  /** @throws QueueError or RpcError: nothing of the operation happened, unless the answer alone was lost */
  perform<O extends Operation>(operation: O): Promise<AnswerOf<O>>;
  /** @param text  `NAME`, or attributes as Kamailio's `mqueue` has them */
  define(text: string): Promise<Answers["define"]>;
  /** In a queue with `full=wait`, waits for room. */
  add(operation: Operation & { type: "add" }, timeoutMs: number): Promise<Added[]>;
  /** Takes items for a time, whatever becomes of this process. */
  lease(request: Lease, signal: AbortSignal): Promise<Item[]>;
  /** Items that are held as long as this process is there. */
  supply(request: SupplyRequest): Supply;
  /** Of the daemon, `undefined` without one. */
  readonly socketPath: string | undefined;
  close(): Promise<void>;
}

export const QUEUES_OPTIONS: OptionSpec[] = [
  {
    flag: "state-dir",
    value: "DIR",
    help: "ask no daemon: work on the store in this directory",
  },
];
