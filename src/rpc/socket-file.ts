/**
 * The file of a unix socket: who may connect, whose it is, and what happens to the one that a dead daemon left behind.
 *
 * The socket is bound under a name that nobody looks for and linked to its own name when mode and group are right. So
 * there is no moment at which the wrong ones can connect, `link` fails if another daemon was faster, and what Bun removes
 * when it closes (the name that it bound, whoever owns it by then) is never the file of another daemon.
 */
import {
  chmodSync,
  chownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  renameSync,
  rmdirSync,
  type Stats,
  unlinkSync,
} from "node:fs";
import { connect } from "node:net";
import { basename, dirname, join } from "node:path";
import { TransportError } from "../core/errors.ts";
import { checkSocketPath } from "./paths.ts";

export interface ClaimOptions {
  path: string;
  /** Numeric group that may connect, too. */
  group: number | undefined;
  /** Binds and listens, synchronously, so that the file mode creation mask covers nothing else. */
  listen(path: string): void;
  /** Undoes `listen` where the claim fails after it. */
  abandon(): void;
}

export interface SocketClaim {
  /** Removes the file, unless it is another one by now. */
  release(): void;
}

/** What the file is: a socket here, a FIFO in fifo.ts. */
export interface FileKind {
  /** With its article, for messages: `a socket`. */
  name: string;
  is(stats: Stats): boolean;
  /** Asks whether anybody uses the file that is there. */
  probe(path: string): Promise<Probe>;
}

/** What answers at a path. */
export type Probe = "answers" | "refused" | "absent" | "denied";

const OWNER_ONLY_MASK = 0o177;

/**
 * Makes a socket listen at a path.
 *
 * @throws ConfigError for a path that no socket can have; TransportError `transport-bind` for all else. Neither leaves a
 *         file behind or touches one that answers
 */
export async function claimSocket(options: ClaimOptions): Promise<SocketClaim> {
  const { path } = options;
  checkSocketPath(path);
  const hidden = checkSocketPath(hiddenBeside(path));
  makeParent(path, options.group);
  return claimFile(SOCKET, path, hidden, { make: (name) => bind(name, options), abandon: () => options.abandon() });
}

const SOCKET: FileKind = { name: "a socket", is: (stats) => stats.isSocket(), probe: probeSocket };

/**
 * Puts a file at a path that a dead daemon may have left one at.
 *
 * @param hidden  a name in the same directory that nobody looks for; `make` is called with it
 * @throws        TransportError `transport-bind`, after `abandon`; nothing is left behind then
 */
export async function claimFile(
  kind: FileKind,
  path: string,
  hidden: string,
  steps: { make(hidden: string): void; abandon(): void },
): Promise<SocketClaim> {
  makeParent(path);
  await clearStale(kind, path);
  try {
    steps.make(hidden);
    linkSync(hidden, path);
    unlinkSync(hidden);
  } catch (cause) {
    steps.abandon();
    removeQuietly(hidden);
    throw errorCode(cause) === "EEXIST" ? taken(path) : bindError(path, explain(cause, path));
  }
  const own = lstatSync(path);
  return { release: () => release(path, own) };
}

/** Asks whether anybody listens, without saying anything. */
export function probeSocket(path: string): Promise<Probe> {
  return new Promise((resolve) => {
    const socket = connect({ path });
    socket.on("connect", () => {
      socket.destroy();
      resolve("answers");
    });
    socket.on("error", (error) => {
      socket.destroy();
      resolve(probeOf(errorCode(error)));
    });
  });
}

/** Also a full backlog (EAGAIN) is a sign of life: only what certainly nobody listens to may be called dead. */
function probeOf(code: string | undefined): Probe {
  if (code === "ECONNREFUSED") return "refused";
  if (code === "ENOENT") return "absent";
  return code === "EACCES" || code === "EPERM" ? "denied" : "answers";
}

/**
 * The last directory only: a whole tree would be the answer to a typing mistake. A group may pass through what is made for
 * it, and see nothing else of it.
 */
function makeParent(path: string, group?: number): void {
  const parent = dirname(path);
  try {
    mkdirSync(parent, { mode: 0o700 });
  } catch (cause) {
    if (errorCode(cause) === "EEXIST") return;
    throw bindError(path, explain(cause, parent));
  }
  if (group === undefined) return;
  try {
    chownSync(parent, -1, group);
    chmodSync(parent, 0o710);
  } catch (cause) {
    rmdirSync(parent);
    throw bindError(path, refused(cause, group));
  }
}

/** Root gives a file to any group, others to those that they are in. */
function refused(cause: unknown, group: number): unknown {
  if (errorCode(cause) !== "EPERM") return cause;
  return new Error(`group ${group} cannot have it, because this process is not in that group`, { cause });
}

function bind(hidden: string, options: ClaimOptions): void {
  const mask = process.umask(OWNER_ONLY_MASK);
  try {
    options.listen(hidden);
  } finally {
    process.umask(mask);
  }
  if (options.group === undefined) return;
  try {
    chownSync(hidden, -1, options.group);
    chmodSync(hidden, 0o660);
  } catch (cause) {
    throw refused(cause, options.group);
  }
}

/**
 * Removes the file of a dead daemon. It is looked at again, moved aside and asked again before it goes, because a second
 * daemon that starts at the same moment may have put its own there in between; that one is put back.
 */
async function clearStale(kind: FileKind, path: string): Promise<void> {
  const found = statForBind(path);
  if (found === undefined) return;
  if (!kind.is(found)) throw bindError(path, new Error(`it exists and is not ${kind.name}`));
  await expectDead(kind, path);
  const again = statForBind(path);
  if (again === undefined) return;
  if (!isSameFile(found, again) || found.ctimeMs !== again.ctimeMs) throw taken(path);
  const aside = hiddenBeside(path);
  moveAside(path, aside);
  const alive = (await kind.probe(aside)) === "answers";
  if (alive) linkQuietly(aside, path);
  removeQuietly(aside);
  if (alive) throw taken(path);
}

function moveAside(path: string, aside: string): void {
  try {
    renameSync(path, aside);
  } catch (cause) {
    throw bindError(path, explain(cause, path));
  }
}

async function expectDead(kind: FileKind, path: string): Promise<void> {
  const probe = await kind.probe(path);
  if (probe === "answers") throw taken(path);
  if (probe === "denied") throw bindError(path, new Error("it belongs to another user, no permission to take it over"));
}

function release(path: string, own: Stats): void {
  const found = statOf(path);
  if (found !== undefined && isSameFile(found, own)) removeQuietly(path);
}

function isSameFile(a: Stats, b: Stats): boolean {
  return a.ino === b.ino && a.dev === b.dev;
}

function statForBind(path: string): Stats | undefined {
  try {
    return statOf(path);
  } catch (cause) {
    throw bindError(path, explain(cause, path));
  }
}

function statOf(path: string): Stats | undefined {
  return lstatSync(path, { throwIfNoEntry: false });
}

function linkQuietly(from: string, to: string): void {
  try {
    linkSync(from, to);
  } catch {
    // A third one was faster: there is a daemon at that path, which is all that the caller says.
  }
}

function removeQuietly(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // It is gone already, which is what was wanted.
  }
}

function taken(path: string): TransportError {
  return bindError(path, new Error(`another daemon answers on ${path}`));
}

function bindError(path: string, cause: unknown): TransportError {
  return new TransportError("transport-bind", "listen on", path, cause);
}

/** Says what the operator can change; the system's own words name a call that they never made. */
function explain(cause: unknown, path: string): unknown {
  const code = errorCode(cause);
  if (code === "EACCES" || code === "EPERM") return new Error(`no permission for ${path}`, { cause });
  if (code === "ENOENT") return new Error(`no such directory: ${dirname(path)}`, { cause });
  if (code === "EROFS") return new Error(`${basename(path)} is on a read-only file system`, { cause });
  return cause;
}

export function errorCode(error: unknown): string | undefined {
  return error instanceof Error && "code" in error ? String(error.code) : undefined;
}

/** Six characters in the same directory, so that this path is rarely longer than the one that it stands for. */
export function hiddenBeside(path: string): string {
  const random = crypto.getRandomValues(new Uint32Array(1))[0] ?? 0;
  return join(dirname(path), `.${random.toString(36).slice(0, 5)}`);
}
