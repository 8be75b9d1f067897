/**
 * Which control socket a command means: `--socket`, else the rule of rpc/paths.ts. `dmq serve --quick` must also run
 * where no runtime directory is writable (a plain account without a login session); then daemon and commands meet in a
 * directory of the user's own below the temporary one, which is trusted only while nobody else owns or can write it.
 */
import { accessSync, constants, existsSync, lstatSync } from "node:fs";
import { dirname } from "node:path";
import { RpcClient } from "../rpc/client.ts";
import { checkSocketPath, controlSocketPath, SYSTEM_SOCKET_PATH } from "../rpc/paths.ts";
import type { Arguments } from "./command.ts";
import type { CliContext } from "./context.ts";

/** A daemon that says nothing to a simple question for that long is stuck. */
export const ANSWER_MS_MAX = 10_000;

export function connectDaemon(context: CliContext, args: Arguments): RpcClient {
  return new RpcClient(clientSocketPath(context, args.value("socket")));
}

/**
 * An account with a login session has a place of its own, but the daemon is mostly the machine's: root asks that one then.
 *
 * @throws ConfigError for a path that no socket can have
 */
export function clientSocketPath(context: CliContext, named: string | undefined): string {
  if (named !== undefined) return checkSocketPath(named);
  const usual = controlSocketPath(context.env);
  if (isDeliberate(context) || existsSync(usual)) return usual;
  const own = ownSocketPath(context);
  const others = own === undefined ? [SYSTEM_SOCKET_PATH] : [own, SYSTEM_SOCKET_PATH];
  return others.find((path) => existsSync(path)) ?? usual;
}

/** Where `serve --quick` listens if no option says so; `undefined` means by the usual rule. */
export function quickSocketPath(context: CliContext): string | undefined {
  if (isDeliberate(context) || canHold(controlSocketPath(context.env))) return undefined;
  return ownSocketPath(context);
}

/** The service manager or the operator chose the place: a failure there is to be seen. */
function isDeliberate(context: CliContext): boolean {
  return Boolean(context.env.DMQ_SOCKET) || Boolean(context.env.RUNTIME_DIRECTORY);
}

function ownSocketPath(context: CliContext): string | undefined {
  if (context.uid === undefined) return undefined;
  const folder = `${context.temporaryDirectory}/dmq-${context.uid}`;
  const found = lstatSync(folder, { throwIfNoEntry: false });
  const isOurs =
    found === undefined || (found.isDirectory() && found.uid === context.uid && (found.mode & 0o077) === 0);
  return isOurs ? `${folder}/dmq.sock` : undefined;
}

/** The daemon makes the last directory of the path, but not a whole tree. */
function canHold(path: string): boolean {
  const folder = dirname(path);
  return isWritable(existsSync(folder) ? folder : dirname(folder));
}

function isWritable(folder: string): boolean {
  try {
    accessSync(folder, constants.W_OK | constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
