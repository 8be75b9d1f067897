/** Whom the commands of queues ask: the daemon, where one answers on the control socket, else the store's file in this process. */
import { RpcError, UsageError } from "../../core/errors.ts";
import { probeSocket } from "../../rpc/socket-file.ts";
import type { Arguments } from "../command.ts";
import type { CliContext } from "../context.ts";
import { clientSocketPath } from "../socket.ts";
import type { Queues } from "./queues.ts";

/**
 * @param makes  a store that is not there is made
 * @throws UsageError for options that contradict, RpcError where the daemon may not be asked, QueueError `storage`
 */
export async function openQueues(context: CliContext, args: Arguments, makes = false): Promise<Queues> {
  const directory = args.value("state-dir");
  if (directory !== undefined && args.has("socket"))
    throw new UsageError("--state-dir and --socket exclude each other: a daemon has its own directory");
  const socketPath = directory === undefined ? await daemonSocket(context, args) : undefined;
  if (socketPath !== undefined) {
    const { RemoteQueues } = await import("./remote.ts");
    return new RemoteQueues(socketPath);
  }
  const { openLocal } = await import("./local.ts");
  return openLocal(context, { directory, makes, file: args.value("config") });
}

/** @returns `undefined` where no daemon runs */
async function daemonSocket(context: CliContext, args: Arguments): Promise<string | undefined> {
  const path = clientSocketPath(context, args.value("socket"));
  const probe = await probeSocket(path);
  if (probe === "answers") return path;
  if (probe !== "denied") return undefined;
  throw new RpcError(
    "rpc-unreachable",
    `no permission for ${path}: use the account that started the daemon, or name a store with --state-dir`,
    { method: "queue", socketPath: path },
  );
}

/** Opens, runs `work` and closes, however it ends. */
export async function withQueues<T>(
  context: CliContext,
  args: Arguments,
  work: (queues: Queues) => Promise<T>,
  makes = false,
): Promise<T> {
  const queues = await openQueues(context, args, makes);
  try {
    return await work(queues);
  } finally {
    await queues.close();
  }
}
