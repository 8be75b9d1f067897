import { describe, expect, test } from "bun:test";
import type { Endpoint } from "../../src/core/endpoint.ts";
import { ProtocolError } from "../../src/core/errors.ts";
import { parseVia, responseDestination, stampVia, topVia, viaCount } from "../../src/sip/via.ts";
import { fixture, kdmq, request, value } from "./octets.ts";

const SOURCE: Endpoint = { transport: "udp", ip: "127.0.0.9", port: 4000 };

test.each([
  [
    "SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bK1",
    { transport: "UDP", host: "127.0.0.1", port: 5060, branch: "z9hG4bK1" },
  ],
  ["SIP/2.0/tcp Node.Example", { transport: "TCP", host: "node.example", port: undefined, branch: undefined }],
  ["SIP/2.0/TLS [2001:DB8::1]:5061", { transport: "TLS", host: "2001:db8::1", port: 5061 }],
  [
    "SIP  /   2.0  /UDP     192.0.2.2 : 5 ; branch = 390",
    { transport: "UDP", host: "192.0.2.2", port: 5, branch: "390" },
  ],
  ["SIP/7.0/UDP c.example.com", { transport: "UDP", host: "c.example.com" }],
  ["SIP/2.0/UDP 1.2.3.4, SIP/2.0/TCP broken broken", { host: "1.2.3.4" }],
  ["SIP/2.0/UDP h.example;rport", { rport: "requested" }],
  ["SIP/2.0/UDP h.example;rport=5070;received=192.0.2.1", { rport: 5070, received: "192.0.2.1" }],
  ["SIP/2.0/UDP h.example;received=[2001:DB8::9:255]", { received: "2001:db8::9:255" }],
  ["SIP/2.0/UDP h.example;received=2001:db8::9:255", { received: "2001:db8::9:255" }],
  ["SIP/2.0/UDP [::ffff:192.0.2.10]:19823;branch=x", { host: "192.0.2.10", port: 19823 }],
  // Kamailio 6.2 with sl_send=1.
  ["SIP/2.0/ 127.0.0.11:5070;branch=x", { transport: "", host: "127.0.0.11", port: 5070, branch: "x" }],
  ["SIP/2.0/ node.example", { transport: "", host: "node.example" }],
  ["SIP/2.0/ [::1]:5070", { transport: "", host: "::1", port: 5070 }],
])("via: reads %s", (text, parts) => {
  expect(value(parseVia(text))).toMatchObject(parts);
});

test.each([
  "",
  "SIP/2.0",
  "SIP/2.0/",
  "SIP/2.0/UDP",
  "SIP/2.0/UDP ",
  "SIP/2.0/UDP;branch=x",
  "SIP/2.0/UDP[::1]",
  "SIP/2.0/UDP 1.2.3.4:",
  "SIP/2.0/UDP 1.2.3.4:70000",
  "SIP/2.0/UDP 1.2.3.4 5.6.7.8",
  "SIP/2.0/UDP 192.0.2.15;;,;,,",
  "SIP/2.0/UDP 192.0.2.15;branch=a;branch=b",
  'SIP/2.0/UDP h.example;x="open',
])("via: refuses %p", (text) => {
  expect(parseVia(text)).toBeInstanceOf(ProtocolError);
});

test("via: the capture of a Kamailio without transport name is understood", () => {
  const top = topVia(request(fixture("captures", "601-newer-sl_send-first.sip")));
  expect(top).toMatchObject({ transport: "", host: "127.0.0.11", port: 5070, branch: "z9hG4bK3684297" });
});

test("via: members of comma lists count, commas in quotes do not", () => {
  const two = 'Via: SIP/2.0/UDP a.example;x="1,2", SIP/2.0/UDP b.example\r\nv: SIP/2.0/UDP c.example';
  expect(viaCount(request(kdmq({ via: two })))).toBe(3);
  expect(viaCount(request(kdmq()))).toBe(1);
  expect(viaCount(request(kdmq({ via: "" })))).toBe(0);
  expect(topVia(request(kdmq({ via: "" })))).toBeUndefined();
});

describe("via: a response goes", () => {
  test.each([
    ["to the source address and the port of the sent-by", "SIP/2.0/UDP 10.0.0.1:5071", "127.0.0.9", 5071],
    ["to port 5060 where the sent-by has none", "SIP/2.0/UDP 10.0.0.1", "127.0.0.9", 5060],
    ["to the source port where rport was asked for", "SIP/2.0/UDP 10.0.0.1:5071;rport", "127.0.0.9", 4000],
    ["never to maddr", "SIP/2.0/UDP 10.0.0.1:5071;maddr=10.9.9.9", "127.0.0.9", 5071],
    ["never to a received that the sender wrote", "SIP/2.0/UDP 10.0.0.1;received=10.9.9.9", "127.0.0.9", 5060],
  ])("%s", (_, text, ip, port) => {
    expect(responseDestination(value(parseVia(text)), SOURCE)).toEqual({ transport: "udp", ip, port });
  });

  test("back on the connection of a stream", () => {
    const stream: Endpoint = { ...SOURCE, transport: "tcp" };
    expect(responseDestination(value(parseVia("SIP/2.0/TCP 10.0.0.1:5071")), stream)).toEqual(stream);
  });
});

test.each([
  ["SIP/2.0/UDP 127.0.0.9:5060;branch=a", undefined],
  ["SIP/2.0/UDP 10.0.0.1;branch=a", "SIP/2.0/UDP 10.0.0.1;received=127.0.0.9;branch=a"],
  ["SIP/2.0/UDP node.example", "SIP/2.0/UDP node.example;received=127.0.0.9"],
  ["SIP/2.0/UDP 127.0.0.9;rport;branch=a", "SIP/2.0/UDP 127.0.0.9;received=127.0.0.9;rport=4000;branch=a"],
  ["SIP/2.0/UDP 10.0.0.1;received=10.0.0.2;branch=a", "SIP/2.0/UDP 10.0.0.1;received=127.0.0.9;branch=a"],
  ["SIP/2.0/UDP 10.0.0.1;received=127.0.0.9", undefined],
  ["SIP/2.0/UDP 10.0.0.1 , SIP/2.0/UDP 10.0.0.2", "SIP/2.0/UDP 10.0.0.1;received=127.0.0.9, SIP/2.0/UDP 10.0.0.2"],
  ["no via at all", undefined],
])("via: %p is stamped as %p", (text, stamped) => {
  expect(stampVia(text, SOURCE)).toBe(stamped);
});

test("via: received carries an IPv6 address without brackets", () => {
  const stamped = stampVia("SIP/2.0/UDP node.example;rport", { transport: "udp", ip: "2001:db8::1", port: 9 });
  expect(stamped).toBe("SIP/2.0/UDP node.example;received=2001:db8::1;rport=9");
});
