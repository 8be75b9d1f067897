import { describe, expect, test } from "bun:test";
import { ProtocolError } from "../../src/core/errors.ts";
import { addressUri, parseAddress } from "../../src/membership/peer.ts";

describe("a node's address", () => {
  const good: [text: string, uri: string][] = [
    ["sip:10.0.0.21:5060", "sip:10.0.0.21:5060"],
    ["sip:10.0.0.21", "sip:10.0.0.21:5060"],
    ["sip:10.0.0.21:", "sip:10.0.0.21:5060"],
    ["sip:10.0.0.21:5060;transport=udp", "sip:10.0.0.21:5060"],
    ["sip:10.0.0.21;transport=TLS", "sip:10.0.0.21:5061;transport=tls"],
    ["sips:10.0.0.21", "sip:10.0.0.21:5061;transport=tls"],
    ["sip:channel@10.0.0.21:5060;transport=tcp;status=active", "sip:10.0.0.21:5060;transport=tcp"],
    ["sip:Node.Example:5070", "sip:node.example:5070"],
    ["sip:[2001:DB8::0:1]:5070", "sip:[2001:db8::1]:5070"],
  ];
  for (const [text, uri] of good)
    test(`peer: ${text} is ${uri}`, () => {
      const address = parseAddress(text);
      expect(address instanceof ProtocolError ? address.message : addressUri(address)).toBe(uri);
    });

  for (const text of [
    "",
    "10.0.0.21:5060",
    "tel:123",
    "sip:",
    "sip:h:99999",
    "sip:h:0",
    "sip:0.0.0.0",
    "sip:[::]",
    "sip:[ff02::1]",
    "sip:239.1.2.3",
    "sip:h;transport=ws",
  ])
    test(`peer: ${JSON.stringify(text)} is no node's address`, () => {
      expect(parseAddress(text)).toBeInstanceOf(ProtocolError);
    });
});
