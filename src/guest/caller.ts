/**
 * The methods of docs/RPC.md without a daemon: the same table, parameters, results and faults, served by a visit that lives
 * as long as one command.
 */
import { canonicalIp } from "../core/endpoint.ts";
import { ProtocolError, RpcError, UsageError } from "../core/errors.ts";
import { parseAddress } from "../membership/peer.ts";
import type { CallOptions } from "../rpc/client.ts";
import { failureOf } from "../rpc/jsonrpc.ts";
import { METHODS, methodNotFound } from "../rpc/methods.ts";
import type { TlsOptions } from "../transport/tls.ts";
import type { BindAddress } from "../transport/transport.ts";
import type { Contact } from "./reading.ts";
import { GuestSurface } from "./surface.ts";
import { Visitor } from "./visitor.ts";

export interface GuestOptions {
  /** URIs of nodes to ask for the node list, in this order. */
  via: readonly string[];
  /** `sip:IP[:PORT]`: what packets come from. */
  fromAddress?: string | undefined;
  notificationChannel: string;
  tls: TlsOptions;
}

/** Nodes that may be named; all of them silent, each still has a second. */
const CONTACTS_MAX = 9;

export class GuestCaller {
  private readonly visitor: Visitor;
  private readonly surface: GuestSurface;

  /** @throws UsageError for a URI that is no node's address, too many of them, a `fromAddress` that is no IP literal */
  constructor(options: GuestOptions) {
    const { via, notificationChannel, tls } = options;
    if (via.length > CONTACTS_MAX) throw new UsageError(`--via: got ${via.length}, expected at most ${CONTACTS_MAX}`);
    const contacts = via.map(readContact);
    const fromAddress = options.fromAddress === undefined ? undefined : readFromAddress(options.fromAddress);
    this.visitor = new Visitor({ contacts, notificationChannel, tls, fromAddress, userAgent: "dmq" });
    this.surface = new GuestSurface(this.visitor, notificationChannel);
  }

  /** @throws ConfigError for TLS files that are missing or wrong, where a URI of `via` needs them */
  prepare(): Promise<void> {
    return this.visitor.prepare();
  }

  /** @throws RpcError `rpc-fault`, as a daemon would; `rpc-unreachable` after `timeoutMs`; the signal's reason */
  async call<T>(method: string, params?: unknown, { signal, timeoutMs }: CallOptions = {}): Promise<T> {
    const timeout = timeoutMs === undefined ? undefined : AbortSignal.timeout(timeoutMs);
    const signals = [signal, timeout].filter((entry) => entry !== undefined);
    const running = this.run(method, params);
    if (signals.length === 0) return (await running) as T;
    try {
      return (await Promise.race([running, aborted(AbortSignal.any(signals))])) as T;
    } catch (cause) {
      if (cause instanceof RpcError || !timeout?.aborted || signal?.aborted) throw cause;
      throw new RpcError("rpc-unreachable", `no end of ${method} in ${timeoutMs} ms`, { method, socketPath: "" });
    } finally {
      // Lost the race: nobody waits for it any more.
      running.catch(() => undefined);
    }
  }

  close(): Promise<void> {
    return this.surface.close();
  }

  private async run(name: string, params: unknown): Promise<unknown> {
    try {
      const method = METHODS.get(name);
      if (method === undefined) throw methodNotFound();
      const result = await method.run(this.surface, params);
      // As it comes out of a socket: what is not there is not there.
      return JSON.parse(JSON.stringify(result ?? null));
    } catch (cause) {
      const { code, message, data } = failureOf(cause);
      throw new RpcError("rpc-fault", message, { method: name, socketPath: "", fault: code, data, cause });
    }
  }
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

function readContact(text: string): Contact {
  const address = parseAddress(text);
  if (!(address instanceof ProtocolError)) return { address, text };
  throw new UsageError(`--via ${JSON.stringify(text)}: ${address.message}; expected sip:host:port[;transport=tcp|tls]`);
}

function readFromAddress(text: string): BindAddress {
  const isAnyPort = !/:\d+$/.test(text.replace(/\[[^\]]*\]/, ""));
  const address = parseAddress(text);
  const ip = address instanceof ProtocolError ? undefined : canonicalIp(address.host);
  if (address instanceof ProtocolError || ip === undefined || address.transport !== "udp")
    throw new UsageError(`--from-address ${JSON.stringify(text)}: expected sip:IP or sip:IP:PORT`);
  return { ip, port: isAnyPort ? 0 : address.port };
}
