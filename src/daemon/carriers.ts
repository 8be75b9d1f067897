/**
 * Everything that a daemon is asked through: the control socket, and where they are wanted, the socket for kamcmd and the
 * FIFO for kamctl. They open together or not at all.
 */
import { readFileSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
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

type Places = Pick<DmqConfig, "ctl" | "rpcFifo" | "rpcFifoReplyDir" | "rpcGroup"> & { socketPath: string };

/**
 * @throws ConfigError     a path cannot be used, or is of no use without another
 * @throws TransportError  `transport-bind`: one of them is in use, or something else is there; nothing is left behind
 */
export async function openCarriers(places: Places, surface: ControlSurface, log: Logger): Promise<Carriers> {
  const { socketPath, ctl, rpcFifo, rpcFifoReplyDir } = places;
  checkPaths(places);
  const group = readGroup(places.rpcGroup);
  const sockets = ctl === undefined ? [socketPath] : [socketPath, ctl];
  const open: Carriers[] = [];
  const close = async (): Promise<void> => {
    await Promise.all(open.map((carrier) => carrier.close()));
  };
  try {
    open.push(await serveRpc({ path: socketPath, surface, group }));
    if (ctl !== undefined) open.push(await serveCtl({ path: ctl, surface, group }));
    if (rpcFifo !== undefined) {
      open.push(await serveFifo({ path: rpcFifo, replyDir: rpcFifoReplyDir, surface, log }));
    }
  } catch (cause) {
    await close();
    throw cause;
  }
  if (group !== undefined) for (const path of sockets) warnOfDirectory(path, group, log);
  return { close };
}

/** @throws ConfigError two of the paths are the same one, or the directory of answers is not there or of no use */
export function checkPaths({ socketPath, ctl, rpcFifo, rpcFifoReplyDir }: Places): void {
  expectOwnPath("ctl", ctl, [socketPath]);
  expectOwnPath("rpc_fifo", rpcFifo, [socketPath, ctl]);
  expectReplyDir(rpcFifoReplyDir, rpcFifo);
}

/**
 * @returns            the number of the group, `undefined` where none is wanted
 * @throws ConfigError there is none of that name
 */
export function readGroup(name: string | undefined): number | undefined {
  if (name === undefined) return undefined;
  const number = /^\d{1,9}$/.test(name) ? Number(name) : groupNumber(name);
  if (number !== undefined) return number;
  throw new ConfigError(
    "config-invalid-value",
    "rpc_group",
    JSON.stringify(name),
    "a group of /etc/group, or a number",
  );
}

/** A line of /etc/group is `name:password:number:members` (group(5)). Groups that come from elsewhere have a number, too. */
function groupNumber(name: string): number | undefined {
  const line = readQuietly("/etc/group")
    .split("\n")
    .find((one) => one.startsWith(`${name}:`));
  const number = line?.split(":")[2];
  return number !== undefined && /^\d{1,9}$/.test(number) ? Number(number) : undefined;
}

function readQuietly(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    // Where there is no such file there is no group of that name.
    return "";
  }
}

/** The mode of the socket alone lets nobody in. */
function warnOfDirectory(path: string, group: number, log: Logger): void {
  const parent = dirname(resolve(path));
  const { mode, gid } = statSync(parent);
  const passes = (mode & 0o001) !== 0 || (gid === group && (mode & 0o010) !== 0);
  if (!passes) log.warn(`rpc_group ${group} does not reach ${path}: chgrp ${group} ${parent} && chmod g+x ${parent}`);
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
