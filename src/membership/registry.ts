/**
 * The peer registry: every remote node that we ping, found by identity or by the address it resolves to. The local node
 * is not in it. It holds no timers and sends nothing.
 */
import { assert } from "../core/assert.ts";
import { type Endpoint, endpointKey, sameEndpoint } from "../core/endpoint.ts";
import { addressKey, createPeer, endpointOf, type Peer, type PeerAddress, type PeerSource } from "./peer.ts";
import type { Status } from "./status.ts";

/** Beyond this no new peer is taken (design.md section 8). */
export const REGISTRY_PEERS_MAX = 1_000;
/** Nor one at an IP address that has as many, unless an operator names it: a host has 65,535 ports, and may answer on all. */
export const ADDRESS_PEERS_MAX = 64;

export class PeerRegistry {
  /** Changes whenever the answer of `isMember` may. */
  revision = 0;
  private readonly byKey = new Map<string, Peer>();
  private readonly byEndpoint = new Map<string, Peer>();
  private readonly byUri = new Map<string, Peer>();

  /**
   * @param ip  where it lives
   * @returns   why no such peer is taken any more; `undefined` where there is room
   */
  obstacle(source: PeerSource, ip: string | undefined): string | undefined {
    if (this.byKey.size >= REGISTRY_PEERS_MAX) return `${this.byKey.size} peers are known`;
    if (ip === undefined || isOperators(source)) return undefined;
    let there = 0;
    for (const peer of this.byKey.values()) if (peer.endpoint?.ip === ip) there++;
    return there >= ADDRESS_PEERS_MAX ? `${there} peers are known at ${ip}` : undefined;
  }

  /** The caller has made sure that there is none yet (`find`), and that there is room (`obstacle`). */
  add(address: PeerAddress, source: PeerSource, status: Status): Peer {
    assert(this.byKey.size < REGISTRY_PEERS_MAX, "there is room for a peer");
    const peer = createPeer(address, source, status);
    this.byKey.set(peer.key, peer);
    this.byUri.set(peer.uri, peer);
    this.revision++;
    if (peer.endpoint !== undefined) this.byEndpoint.set(endpointKey(peer.endpoint), peer);
    return peer;
  }

  get(key: string): Peer | undefined {
    return this.byKey.get(key);
  }

  /** The peer whose URI is written exactly so: that of an address needs reading, which costs more than sending. */
  named(uri: string): Peer | undefined {
    return this.byUri.get(uri);
  }

  /** By identity first, then by alias: an address that a known peer's name resolves to is that peer. */
  find(address: PeerAddress): Peer | undefined {
    const key = addressKey(address);
    return this.byKey.get(key) ?? this.byEndpoint.get(key);
  }

  /** The peer that octets to and from this endpoint belong to. */
  at(endpoint: Endpoint): Peer | undefined {
    return this.byEndpoint.get(endpointKey(endpoint));
  }

  /** True if any peer, of whatever status, lives at this IP address (`dmq_is_from_node`'s rule, dmq.md 10). */
  hasIp(ip: string): boolean {
    for (const peer of this.byKey.values()) if (peer.endpoint?.ip === ip) return true;
    return false;
  }

  /** True for the address of a notification address, of a peer that an operator added, and of one that has answered us. */
  isMember(ip: string): boolean {
    for (const peer of this.byKey.values())
      if (peer.endpoint?.ip === ip && (peer.verified || isOperators(peer.source))) return true;
    return false;
  }

  /** It answered a notification of ours, or did not where it is now. */
  verify(peer: Peer, verified: boolean): void {
    if (peer.verified !== verified) this.revision++;
    peer.verified = verified;
  }

  /** It is known from there from now on. */
  source(peer: Peer, source: PeerSource): void {
    if (peer.source !== source) this.revision++;
    peer.source = source;
  }

  /** Points a named peer at the address that its name resolves to now. */
  resolve(peer: Peer, ip: string | undefined): void {
    if (peer.endpoint !== undefined) this.forgetEndpoint(peer);
    this.revision++;
    peer.endpoint = ip === undefined ? undefined : endpointOf(peer.address, ip);
    peer.endpointKey = peer.endpoint === undefined ? "" : endpointKey(peer.endpoint);
    if (peer.endpoint !== undefined) this.byEndpoint.set(peer.endpointKey, peer);
  }

  /**
   * An answer to our 64 random bits came from its endpoint: one object stands for both ways from now on, so that nobody has to
   * look at the texts in it. With a thousand peers those are never in the cache.
   */
  meet(peer: Peer, from: Endpoint): void {
    if (from.transport === "udp" && peer.endpoint !== undefined && sameEndpoint(peer.endpoint, from))
      peer.endpoint = from;
  }

  remove(peer: Peer): void {
    this.byKey.delete(peer.key);
    this.byUri.delete(peer.uri);
    this.revision++;
    this.forgetEndpoint(peer);
  }

  /** In the order in which they were learned. */
  all(): IterableIterator<Peer> {
    return this.byKey.values();
  }

  get size(): number {
    return this.byKey.size;
  }

  countActive(): number {
    let count = 0;
    for (const peer of this.byKey.values()) if (peer.status === "active") count++;
    return count;
  }

  private forgetEndpoint(peer: Peer): void {
    if (peer.endpoint === undefined) return;
    const key = endpointKey(peer.endpoint);
    if (this.byEndpoint.get(key) === peer) this.byEndpoint.delete(key);
  }
}

/** An operator says that it is there. */
export function isOperators(source: PeerSource): boolean {
  return source === "notification_address" || source === "added";
}
