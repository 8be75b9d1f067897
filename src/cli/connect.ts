/**
 * Whom a command asks: the daemon on a control socket, or with `--via` a bus that it visits without joining. A command
 * sees a `Caller` and does not know the difference: methods, parameters, results and faults are the same.
 */
import { ConfigError, type RpcError, UsageError } from "../core/errors.ts";
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
    help: "without a daemon: read the node list at this node (else DMQ_VIA); the next one if it does not answer",
  },
  { flag: "from-address", value: "URI", help: "with --via: send from this address, sip:IP[:PORT]" },
];

/**
 * In this order: `--via`, `--socket`, `DMQ_SOCKET`, `DMQ_VIA`, the usual control socket.
 *
 * @throws UsageError for options that contradict or are malformed, ConfigError for a path that no socket can have
 */
export async function connect(context: CliContext, args: Arguments): Promise<Caller> {
  const via = viaOf(context, args);
  if (via.length > 0) return visit(context, via, args.value("from-address") ?? context.env.DMQ_FROM_ADDRESS);
  if (args.has("from-address")) throw new UsageError("--from-address goes with --via: a daemon has its own address");
  const client = connectDaemon(context, args);
  return {
    call: (method, params, options) => client.call(method, params, options),
    callEach: (method, params, options) => client.callEach(method, params, options),
    close: async () => undefined,
  };
}

function viaOf({ env }: CliContext, args: Arguments): readonly string[] {
  const named = args.all("via");
  if (named.length > 0 && args.has("socket")) throw new UsageError("--via and --socket exclude each other");
  if (named.length > 0) return named;
  const isDaemonNamed = args.has("socket") || Boolean(env.DMQ_SOCKET);
  return isDaemonNamed ? [] : (env.DMQ_VIA ?? "").split(/\s+/).filter((uri) => uri !== "");
}

/** What a visit needs is loaded by those who make one. */
async function visit({ env }: CliContext, via: readonly string[], fromAddress: string | undefined): Promise<Caller> {
  const { GuestCaller } = await import("../guest/caller.ts");
  const verify = env.DMQ_TLS_VERIFY || "peer";
  if (verify !== "peer" && verify !== "none")
    throw new ConfigError("config-invalid-value", "DMQ_TLS_VERIFY", JSON.stringify(verify), "peer or none");
  const caller = new GuestCaller({
    via,
    fromAddress: fromAddress || undefined,
    notificationChannel: env.DMQ_NOTIFICATION_CHANNEL || "notification_peer",
    tls: {
      cert: env.DMQ_TLS_CERT || undefined,
      key: env.DMQ_TLS_KEY || undefined,
      ca: env.DMQ_TLS_CA || undefined,
      verify,
    },
  });
  await caller.prepare();
  return caller;
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
