/**
 * What a transport owes the driver, and the few words all transports share.
 *
 * A transport moves octets. It knows no SIP, keeps no message and decides nothing: whatever happens on the network becomes
 * a call on the sink. `received` is called from the socket's own callback. The others, which are bad news, are never
 * called from within `send`, `flush` or `close`, because the driver calls those while it drains the core, and the core
 * must not be entered twice; they come in the microtask after.
 */
import type { Endpoint, Transport } from "../core/endpoint.ts";
import { canonicalIp, endpointKey } from "../core/endpoint.ts";
import { TransportError } from "../core/errors.ts";

/** What a transport tells the driver: the three network inputs of the core, one for one, and what an operator must know. */
export interface TransportSink {
  /**
   * Octets came in: `octets[start, end)`. Those of a stream belong to the sink from then on; the memory of datagrams is used again after
   * the call.
   *
   * @param flow  0 for datagrams, else the number of the connection
   * @param size  octets of each datagram, one behind the other; the last may have fewer. Of a stream all of them
   */
  received(from: Endpoint, flow: number, octets: Uint8Array, start: number, end: number, size: number): void;
  /** A connection ended, whoever ended it; once for each flow. `cause` is there if it was not in good order. */
  closed(flow: number, cause: Error | undefined): void;
  /** Octets for `to` certainly, or very probably, did not arrive. For a connection: once for all that waited on it. */
  unsent(to: Endpoint, cause: Error): void;
  /** A connection came in. False closes it with nothing read; without this every one is taken. */
  accepts?(from: Endpoint): boolean;
  /** A TLS connection from or to `remote` was refused by one of the two sides; `closed` comes as well. */
  refused(remote: Endpoint, cause: TransportError): void;
}

/** Where a transport listens. */
export interface Listener {
  readonly transport: Transport;
  readonly ip: string;
  /** The real one, also where port 0 was asked for. 0 if a stream transport was opened without a listener. */
  readonly port: number;
}

/** What to bind to: a canonical IP literal, and a port or 0 for any free one. */
export interface BindAddress {
  readonly ip: string;
  readonly port: number;
}

/** Error codes in words that say what to do; the code itself stays in front for whoever searches for it. */
const ADVICE: Readonly<Record<string, string>> = {
  EADDRINUSE: "another process has this address; stop it, or choose another port",
  EACCES: "no permission; ports below 1024 need root or CAP_NET_BIND_SERVICE, or choose a higher port",
  EPERM: "no permission; a firewall or a sandbox forbids it",
  EADDRNOTAVAIL: "no interface of this machine has this address; choose one that `ip addr` shows",
  EAFNOSUPPORT: "this socket does not speak that address family",
  ECONNREFUSED: "nothing listens there, or it cannot be reached",
  EHOSTUNREACH: "no route to the host",
  ENETUNREACH: "no route to the network",
  ETIMEDOUT: "no answer in time",
};

/** The `code` of a system error, or `""`: what Bun throws carries one, and anything else is no system error. */
export function errorCode(cause: unknown): string {
  if (typeof cause !== "object" || cause === null || !("code" in cause)) return "";
  return typeof cause.code === "string" ? cause.code : "";
}

/** A system error in words an operator can act on; the original stays in `cause`. */
export function explain(cause: unknown): Error {
  const code = errorCode(cause);
  const advice = ADVICE[code];
  if (advice !== undefined) return new Error(`${code}, ${advice}`, { cause });
  const text = cause instanceof Error ? cause.message : String(cause);
  return new Error(code === "" || text.includes(code) ? text : `${code}, ${text}`, { cause });
}

/** @returns the error for a socket that could not be bound: code `transport-bind`, the address and what to do */
export function bindError(transport: Transport, address: BindAddress, cause: unknown): TransportError {
  return new TransportError("transport-bind", "bind", endpointKey({ transport, ...address }), explain(cause));
}

/**
 * The one spelling of an address that the kernel reported: IPv4-mapped IPv6 becomes IPv4, which is what a dual-stack
 * socket means by it. Link-local addresses keep their scope (`fe80::1%eth0`), because without it they lead nowhere.
 */
export function canonicalSource(address: string): string {
  return address.includes(":") ? (canonicalIp(address) ?? address) : address;
}

type Report =
  | { type: "closed"; flow: number; cause: Error | undefined }
  | { type: "unsent"; to: Endpoint; cause: Error }
  | { type: "refused"; remote: Endpoint; cause: TransportError };

/** Brings bad news to the sink in the microtask after, in order; see the top of this file for why not at once. */
export class Reports {
  readonly #sink: TransportSink;
  #waiting: Report[] = [];
  #stopped = false;

  constructor(sink: TransportSink) {
    this.#sink = sink;
  }

  closed(flow: number, cause: Error | undefined): void {
    this.#add({ type: "closed", flow, cause });
  }

  unsent(to: Endpoint, cause: Error): void {
    this.#add({ type: "unsent", to, cause });
  }

  refused(remote: Endpoint, cause: TransportError): void {
    this.#add({ type: "refused", remote, cause });
  }

  /** After a transport was shut down nobody listens any more. */
  stop(): void {
    this.#stopped = true;
    this.#waiting = [];
  }

  #add(report: Report): void {
    if (this.#stopped) return;
    this.#waiting.push(report);
    if (this.#waiting.length === 1) queueMicrotask(() => this.#deliver());
  }

  #deliver(): void {
    const reports = this.#waiting;
    this.#waiting = [];
    for (const report of reports) {
      if (report.type === "closed") this.#sink.closed(report.flow, report.cause);
      else if (report.type === "unsent") this.#sink.unsent(report.to, report.cause);
      else this.#sink.refused(report.remote, report.cause);
    }
  }
}
