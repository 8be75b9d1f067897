/**
 * What Linux has for datagrams and Bun has not: many sent in one call (mmsg.ts), and many read in one (inbox.ts), through the C
 * library. All that is needed is looked for when a socket opens; where something is missing, Bun's socket does it.
 */

import type { Deliver } from "./batch.ts";
import type { BunDatagrams } from "./datagram.ts";
import { Inbox, type ReadLibrary } from "./inbox.ts";
import { MmsgSocket, type SendLibrary } from "./mmsg.ts";

export type Library = SendLibrary & ReadLibrary;

export interface NativeOptions {
  /** The socket is one of IPv6, and sends to IPv4 by mapped addresses. */
  readonly isIpv6: boolean;
  /** Runs of one size may go down in one piece, and come up in one. */
  readonly mayCut: boolean;
  /** Datagrams may be read here; without it Bun does. */
  readonly mayRead: boolean;
  /** Takes what is read here. */
  readonly deliver: Deliver;
}

/** What `loadNative` found. */
export interface Native {
  /** @returns `undefined` where a sandbox forbids the calls */
  open(socket: Bun.udp.Socket<"buffer">, options: NativeOptions): NativeSocket | undefined;
}

let loaded: Promise<Native | undefined> | undefined;

/** @returns `undefined` where this machine does not have what it takes */
export function loadNative(): Promise<Native | undefined> {
  loaded ??= load();
  return loaded;
}

async function load(): Promise<Native | undefined> {
  const is64 = process.arch === "x64" || process.arch === "arm64";
  if (process.platform !== "linux" || !is64) return undefined;
  try {
    const { dlopen, ptr } = await import("bun:ffi");
    // The name of glibc's. musl would do as well, but goes by another name on each machine.
    const { symbols } = dlopen("libc.so.6", {
      sendmmsg: { args: ["i32", "ptr", "u32", "i32"], returns: "i32" },
      recvmmsg: { args: ["i32", "ptr", "u32", "i32", "ptr"], returns: "i32" },
      getsockopt: { args: ["i32", "i32", "i32", "ptr", "ptr"], returns: "i32" },
      setsockopt: { args: ["i32", "i32", "i32", "ptr", "u32"], returns: "i32" },
      socket: { args: ["i32", "i32", "i32"], returns: "i32" },
      bind: { args: ["i32", "ptr", "u32"], returns: "i32" },
      getsockname: { args: ["i32", "ptr", "ptr"], returns: "i32" },
      connect: { args: ["i32", "ptr", "u32"], returns: "i32" },
      send: { args: ["i32", "ptr", "u64", "i32"], returns: "i32" },
      fcntl: { args: ["i32", "i32", "i32"], returns: "i32" },
      dup3: { args: ["i32", "i32", "i32"], returns: "i32" },
      close: { args: ["i32"], returns: "i32" },
    });
    const library: Library = {
      ...(symbols as unknown as Omit<Library, "address">),
      address: (octets) => Number(ptr(octets)),
    };
    return { open: (socket, options) => open(socket, library, options) };
  } catch {
    // No such library, or the system allows no code that is made at run time.
    return undefined;
  }
}

function open(socket: Bun.udp.Socket<"buffer">, library: Library, options: NativeOptions): NativeSocket | undefined {
  const { fd } = socket as { fd?: unknown };
  if (typeof fd !== "number" || fd < 0) return undefined;
  const { isIpv6, mayCut, deliver } = options;
  const inbox = new Inbox(library, fd, { isIpv6, mayJoin: mayCut, deliver });
  const native = new NativeSocket(socket, library, inbox, options);
  if (!native.works()) return undefined;
  native.widen();
  return native;
}

/** Wake-ups in a row without a datagram: more is no accident. */
const IDLE_MAX = 100;

/** A UDP socket of Bun's that we read and send on; Bun waits for it, and is asked where we do not know better. */
export class NativeSocket extends MmsgSocket {
  readonly #inbox: Inbox;
  #mayRead: boolean;
  #idle = 0;
  #isScheduled = false;
  /** Bun waits until the kernel takes more, as it does when it opens a socket, and needs its socket for that. */
  #isFull = true;
  #isClosed = false;

  constructor(socket: BunDatagrams, library: Library, inbox: Inbox, { isIpv6, mayCut, mayRead }: NativeOptions) {
    super(socket, library, inbox, isIpv6, mayCut);
    this.#inbox = inbox;
    this.#mayRead = mayRead;
  }

  /** True while what Bun calls with is a wake-up, and no datagram. */
  get isReading(): boolean {
    return this.#inbox.isBorrowed;
  }

  /** Reads what woke Bun up. */
  read(): void {
    this.#idle = this.#inbox.read() ? 0 : this.#idle + 1;
    // Bun waits for the bell: it would ring for ever.
    if (this.#idle >= IDLE_MAX) this.#mayRead = false;
    this.#schedule();
  }

  /** To be called when the kernel takes datagrams again. */
  readAgain(): void {
    this.#isFull = false;
    this.#schedule();
  }

  #schedule(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    // Not from within Bun's callback, which reads until there is nothing, and has yet to say what it waits for.
    setImmediate(this.#onImmediate);
  }

  readonly #onImmediate = (): void => {
    this.#isScheduled = false;
    if (this.#isClosed) return;
    if (!this.#isFull) this.#takeTurns();
    this.#inbox.deliverLeft();
  };

  #takeTurns(): void {
    if (!this.#mayRead) this.#inbox.giveBack();
    else if (this.#inbox.isBorrowed) this.#inbox.wind();
    else this.#inbox.borrow();
  }

  override send(bytes: Uint8Array, port: number, ip: string): boolean {
    this.#inbox.giveBack();
    this.#isFull = false;
    this.#schedule();
    this.#isFull = !super.send(bytes, port, ip);
    return !this.#isFull;
  }

  override close(): void {
    this.#isClosed = true;
    this.#inbox.giveBack();
    super.close();
  }
}
