/**
 * Calls into the C library: unix datagrams, which Bun has no socket for, the clock that systemd compares its messages by, and
 * the word to the kernel that our memory is nobody's business. Loaded where a supervisor asks for notifications
 * (`NOTIFY_SOCKET`) or there is a private key to keep, and by nothing else.
 */
import { dlopen, ptr, read } from "bun:ffi";

/** glibc first, then the names that musl gives its library. */
const LIBRARIES = ["libc.so.6", `libc.musl-${process.arch === "arm64" ? "aarch64" : "x86_64"}.so.1`, "libc.so"];

const FUNCTIONS = {
  socket: { args: ["i32", "i32", "i32"], returns: "i32" },
  sendto: { args: ["i32", "ptr", "u64", "i32", "ptr", "u32"], returns: "i64" },
  close: { args: ["i32"], returns: "i32" },
  prctl: { args: ["i32", "u64", "u64", "u64", "u64"], returns: "i32" },
  clock_gettime: { args: ["i32", "ptr"], returns: "i32" },
  __errno_location: { args: [], returns: "ptr" },
} as const;

/** Numbers of Linux, the same on x86-64 and arm64. */
const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const CLOCK_MONOTONIC = 1;
const PR_SET_DUMPABLE = 4;

/** What a full receiver says: EAGAIN, ENOBUFS. */
const FULL: readonly number[] = [11, 105];

const ERRNO_NAMES = new Map([
  [1, "EPERM"],
  [2, "ENOENT"],
  [11, "EAGAIN"],
  [13, "EACCES"],
  [90, "EMSGSIZE"],
  [91, "EPROTOTYPE"],
  [105, "ENOBUFS"],
  [111, "ECONNREFUSED"],
]);

/** What became of a datagram: gone, to be tried again because the receiver is busy, or the reason why it cannot go. */
export type Sent = "sent" | "full" | { readonly reason: string };

export interface Datagrams {
  send(text: string): Sent;
  /** CLOCK_MONOTONIC in microseconds. */
  monotonicUsec(): bigint;
  close(): void;
}

/**
 * @param name    the path of a socket, or an abstract name that begins with `@`
 * @throws Error  where there is no C library of a known name, or no socket
 */
export function openDatagrams(name: string): Datagrams {
  const libc = open();
  const fd = libc.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) throw new Error(`no unix socket (${errno(libc)})`);
  const address = socketAddress(name);
  return {
    send: (text) => {
      const octets = new TextEncoder().encode(text);
      const flags = MSG_DONTWAIT | MSG_NOSIGNAL;
      if (libc.sendto(fd, ptr(octets), octets.length, flags, ptr(address), address.length) >= 0n) return "sent";
      const code = errorNumber(libc);
      return FULL.includes(code) ? "full" : { reason: ERRNO_NAMES.get(code) ?? `errno ${code}` };
    },
    monotonicUsec: () => {
      const time = new BigInt64Array(2);
      libc.clock_gettime(CLOCK_MONOTONIC, ptr(time));
      return (time[0] as bigint) * 1_000_000n + (time[1] as bigint) / 1_000n;
    },
    close: () => void libc.close(fd),
  };
}

/**
 * From now on a crash leaves no core file, also none for a collector of them, and no other process of the same user reads this
 * one's memory or environment (prctl(2), PR_SET_DUMPABLE). Commands that it starts are not concerned.
 *
 * @returns false where the system does not know it
 */
export function forbidDumps(): boolean {
  try {
    return open().prctl(PR_SET_DUMPABLE, 0n, 0n, 0n, 0n) === 0;
  } catch {
    return false;
  }
}

type Libc = ReturnType<typeof dlopen<typeof FUNCTIONS>>["symbols"];

function open(): Libc {
  for (const library of LIBRARIES) {
    try {
      return dlopen(library, FUNCTIONS).symbols;
    } catch {
      // Another system has it under another name.
    }
  }
  throw new Error(`no C library (looked for ${LIBRARIES.join(", ")})`);
}

/** `struct sockaddr_un` of unix(7): an abstract name begins with NUL and has none at its end. */
function socketAddress(name: string): Uint8Array {
  const octets = new TextEncoder().encode(name.startsWith("@") ? `\0${name.slice(1)}` : `${name}\0`);
  const address = new Uint8Array(2 + octets.length);
  new DataView(address.buffer).setUint16(0, AF_UNIX, true);
  address.set(octets, 2);
  return address;
}

function errorNumber(libc: Libc): number {
  const at = libc.__errno_location();
  return at === null ? 0 : read.i32(at, 0);
}

function errno(libc: Libc): string {
  const code = errorNumber(libc);
  return ERRNO_NAMES.get(code) ?? `errno ${code}`;
}
