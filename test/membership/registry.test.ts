import { describe, expect, test } from "bun:test";
import { type PeerAddress, parseAddress } from "../../src/membership/peer.ts";
import { PeerRegistry } from "../../src/membership/registry.ts";

function address(uri: string): PeerAddress {
  const parsed = parseAddress(uri);
  if (parsed instanceof Error) throw parsed;
  return parsed;
}

describe("registry", () => {
  test("a peer is found by its URI as it is written, for as long as it is known", () => {
    const registry = new PeerRegistry();
    const peer = registry.add(address("sip:127.0.0.2;transport=tcp"), "added", "active");
    expect(peer.uri).toBe("sip:127.0.0.2:5060;transport=tcp");
    expect(registry.named("sip:127.0.0.2:5060;transport=tcp")).toBe(peer);
    // Another spelling, and another peer.
    expect(registry.named("sip:127.0.0.2;transport=tcp")).toBeUndefined();
    expect(registry.named("sip:127.0.0.2:5060")).toBeUndefined();
    registry.remove(peer);
    expect(registry.named("sip:127.0.0.2:5060;transport=tcp")).toBeUndefined();
  });
});
