/**
 * Whom a command asks: the daemon on a control socket, or with `--via` a bus that it visits without joining. A command
 * sees a `Caller` and does not know the difference: methods, parameters, results and faults are the same.
 */
import { type RpcError, UsageError } from "../core/errors.ts";
import type { CallOptions } from "../rpc/client.ts";
import type { Arguments, OptionSpec } from "./command.ts";
import type { CliContext } from "./context.ts";
import { connectDaemon } from "./socket.ts";

/** Answers JSON-RPC methods (docs/RPC.md). */
export interface Caller {
  /** @throws RpcError as `RpcClient.call` */
  call<T>(method: string, params?: unknown, options?: CallOptions): Promise<T>;
  /**
   * Calls a method once for each of `params`, in their order, in one piece where that is faster.
   *
   * @returns a result or an error for each
   * @throws  RpcError where the whole failed: then none of them has a known end
   */
  callEach?<T>(method: string, params: readonly unknown[], options?: CallOptions): Promise<(T | RpcError)[]>;
  /** Gives up what is under way and keeps nothing open. Called again, it does nothing. */
  close(): Promise<void>;
}

/** For the commands that work without a daemon; one that lacks them always asks the daemon. */
export const VIA_OPTIONS: OptionSpec[] = [
  {
    flag: "via",
    value: "URI",
    repeatable: true,
    help: "without a daemon: read the node list there; may be repeated, the next one is for when it does not answer",
  },
  { flag: "from-address", value: "URI", help: "with --via: send from this address, sip:IP[:PORT]" },
];

/** @throws UsageError for options that contradict, ConfigError for a path that no socket can have */
export async function connect(context: CliContext, args: Arguments): Promise<Caller> {
  if (args.has("via")) throw new UsageError("--via is not there yet");
  const client = connectDaemon(context, args);
  return {
    call: (method, params, options) => client.call(method, params, options),
    callEach: (method, params, options) => client.callEach(method, params, options),
    close: async () => undefined,
  };
}

/** Connects, runs `work` and closes, however it ends. */
export async function withCaller<T>(
  context: CliContext,
  args: Arguments,
  work: (caller: Caller) => Promise<T>,
): Promise<T> {
  const caller = await connect(context, args);
  try {
    return await work(caller);
  } finally {
    await caller.close();
  }
}
