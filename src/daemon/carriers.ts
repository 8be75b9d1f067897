/**
 * Everything that a daemon is asked through: the control socket, and where they are wanted, the socket for kamcmd and the
 * FIFO for kamctl. They open together or not at all.
 */
import { statSync } from "node:fs";
import { resolve } from "node:path";
import type { DmqConfig } from "../config/schema.ts";
import { ConfigError } from "../core/errors.ts";
import type { Logger } from "../core/logger.ts";
import { serveCtl } from "../rpc/ctl.ts";
import { serveFifo } from "../rpc/fifo.ts";
import { serveRpc } from "../rpc/server.ts";
import type { ControlSurface } from "../rpc/surface.ts";

export interface Carriers {
  /** Lets running calls finish for a second, then removes the files. */
  close(): Promise<void>;
}

type Places = Pick<DmqConfig, "ctl" | "rpcFifo" | "rpcFifoReplyDir"> & { socketPath: string };

/**
 * @throws ConfigError     a path cannot be used, or is of no use without another
 * @throws TransportError  `transport-bind`: one of them is in use, or something else is there; nothing is left behind
 */
export async function openCarriers(places: Places, surface: ControlSurface, log: Logger): Promise<Carriers> {
  const { socketPath, ctl, rpcFifo, rpcFifoReplyDir } = places;
  expectOwnPath("ctl", ctl, [socketPath]);
  expectOwnPath("rpc_fifo", rpcFifo, [socketPath, ctl]);
  expectReplyDir(rpcFifoReplyDir, rpcFifo);
  const open: Carriers[] = [];
  const close = async (): Promise<void> => {
    await Promise.all(open.map((carrier) => carrier.close()));
  };
  try {
    open.push(await serveRpc({ path: socketPath, surface }));
    if (ctl !== undefined) open.push(await serveCtl({ path: ctl, surface }));
    if (rpcFifo !== undefined) {
      open.push(await serveFifo({ path: rpcFifo, replyDir: rpcFifoReplyDir, surface, log }));
    }
  } catch (cause) {
    await close();
    throw cause;
  }
  return { close };
}

/** Without this, a daemon would find itself on the second of two equal paths, and say that another one is there. */
function expectOwnPath(option: string, path: string | undefined, others: readonly (string | undefined)[]): void {
  if (path === undefined) return;
  const isTaken = others.some((other) => other !== undefined && resolve(other) === resolve(path));
  if (isTaken) throw new ConfigError("config-contradiction", option, path, "a path that no other socket of ours has");
}

/** Without this, each caller would wait for an answer that has no place. */
function expectReplyDir(replyDir: string | undefined, rpcFifo: string | undefined): void {
  if (replyDir === undefined) return;
  const option = "rpc_fifo_reply_dir";
  if (rpcFifo === undefined) throw new ConfigError("config-contradiction", option, "no rpc_fifo", "rpc_fifo with it");
  if (!isDirectory(replyDir))
    throw new ConfigError("config-invalid-value", option, replyDir, "a directory that is there");
}

function isDirectory(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch {
    // It is not there, or what is before it is no directory, or not to be looked into.
    return false;
  }
}
