/** What others may know of a peer: a copy, so that nobody outside the core holds its state. */
import type { Peer } from "../membership/peer.ts";
import type { PeerInfo } from "./io.ts";
import type { Requests } from "./requests.ts";

export function peerInfo(peer: Peer, requests: Requests): PeerInfo {
  return {
    uri: peer.uri,
    host: peer.address.host,
    port: peer.address.port,
    transport: peer.address.transport,
    resolvedIp: peer.endpoint?.ip ?? "",
    status: peer.status,
    verified: peer.verified,
    failCount: peer.failCount,
    source: peer.source,
    rttMs: peer.rttMs,
    lastSeen: peer.lastSeen,
    userAgent: peer.userAgent,
    ...requests.load(peer.key),
  };
}
