import { describe, expect, test } from "bun:test";
import { ProtocolError } from "../../src/core/errors.ts";
import { equalUri, formatUri, parseUri } from "../../src/sip/uri.ts";
import { value } from "./octets.ts";

describe("uri: what is read", () => {
  test.each([
    ["sip:127.0.0.1", { scheme: "sip", user: undefined, host: "127.0.0.1", port: undefined }],
    ["SIPS:Node.Example.COM:5061", { scheme: "sips", host: "node.example.com", port: 5061 }],
    ["sip:lab@127.0.0.1:5060", { user: "lab", host: "127.0.0.1", port: 5060 }],
    ["sip:[2001:DB8::0:1]:5060", { host: "2001:db8::1", port: 5060 }],
    ["sip:lab@[::1]", { user: "lab", host: "::1", port: undefined }],
    ["sip:[::ffff:192.0.2.1]", { host: "192.0.2.1" }],
    // Kamailio writes a node without a port like this.
    ["sip:host.example:", { host: "host.example", port: undefined }],
    ["sip:lab_1.example.", { host: "lab_1.example." }],
    ["sip:alice:secret@example.com", { user: "alice", password: "secret" }],
    ["sip:sips%3Auser%40example.com@example.net", { user: "sips%3Auser%40example.com", host: "example.net" }],
    ["sip:user;par=u%40example.net@example.com", { user: "user;par=u%40example.net", host: "example.com" }],
    ["sip:user@example.com?Route=%3Csip:example.com%3E", { headers: "Route=%3Csip:example.com%3E" }],
  ])("%s", (text, parts) => {
    expect(value(parseUri(text))).toMatchObject(parts);
  });

  test("parameters keep their order and values, names in lower case", () => {
    const uri = value(parseUri("sip:h.example:;Transport=TCP;lr;status=active"));
    expect([...uri.params]).toEqual([
      ["transport", "TCP"],
      ["lr", undefined],
      ["status", "active"],
    ]);
  });
});

test.each([
  ["", 400],
  ["sip", 400],
  ["sip:", 400],
  ["<sip:user@example.com>", 400],
  ["tel:+4930123", 416],
  ["nobodyKnowsThisScheme:totallyopaquecontent", 416],
  ["soap.beep://192.0.2.103:3002", 416],
  ["sip:@example.com", 400],
  ["sip:a@b@example.com", 400],
  ["sip:a b@example.com", 400],
  ["sip:bad%4gescape@example.com", 400],
  ["sip:bad%", 400],
  ["sip:2001:db8::10", 400],
  ["sip:[2001:db8:::1]", 400],
  ["sip:[127.0.0.1]", 400],
  ["sip:[::1", 400],
  ["sip:[::1]x", 400],
  ["sip:127.0.0.256", 400],
  ["sip:127.1", 400],
  ["sip:-host.example", 400],
  ["sip:a..example", 400],
  ["sip:host.example:0", 400],
  ["sip:host.example:65536", 400],
  ["sip:host.example:5060x", 400],
  ["sip:host.example:-1", 400],
  ["sip:host.example;;lr", 400],
  ["sip:host.example;a=", 400],
  ["sip:host.example;a=1;A=2", 400],
  ['sip:host.example;a="1"', 400],
  ["sip:host.example; lr", 400],
  ["sip:host.example?", 400],
  ["sip:host.example?a", 400],
  ["sip:host.example\r\nVia: x", 400],
  ["sip:ho\u0000st.example", 400],
  ["sip:пример.example", 400],
])("uri: %p is refused with %d", (text, status) => {
  const error = parseUri(text);
  expect(error).toBeInstanceOf(ProtocolError);
  expect((error as ProtocolError).statusHint).toBe(status);
});

test.each([
  ["sip:127.0.0.1:5060;transport=tcp", "sip:127.0.0.1:5060;transport=tcp"],
  ["SIP:a:b@[2001:DB8::1]:5060;LR?x=y", "sip:a:b@[2001:db8::1]:5060;lr?x=y"],
  ["sip:host.example:", "sip:host.example"],
])("uri: %s is written as %s, and reads the same again", (text, written) => {
  expect(formatUri(value(parseUri(text)))).toBe(written);
  expect(formatUri(value(parseUri(written)))).toBe(written);
});

// The examples of RFC 3261 §19.1.4, and what DMQ adds.
test.each([
  ["sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtlanTa.CoM;Transport=tcp", true],
  ["sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5", true],
  ["sip:carol@chicago.com;newparam=5", "sip:carol@chicago.com;security=on", true],
  [
    "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
    "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
    true,
  ],
  [
    "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
    "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
    true,
  ],
  ["SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP", false],
  ["sip:bob@biloxi.com", "sip:bob@biloxi.com:5060", false],
  ["sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp", false],
  ["sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting", false],
  ["sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4", false],
  ["sip:carol@chicago.com;security=off", "sip:carol@chicago.com;security=on", false],
  ["sip:bob@biloxi.com", "sip:bob@biloxi.com;maddr=192.0.2.1", false],
  ["sip:bob@biloxi.com", "sips:bob@biloxi.com", false],
  ["sip:bob:a@biloxi.com", "sip:bob:b@biloxi.com", false],
  ["sip:a%40b@biloxi.com", "sip:a%40B@biloxi.com", false],
  ["sip:[2001:db8::1]", "sip:[2001:DB8:0:0:0:0:0:1]", true],
])("uri: %s equals %s: %p", (a, b, equal) => {
  const [left, right] = [value(parseUri(a)), value(parseUri(b))];
  expect(equalUri(left, right)).toBe(equal);
  expect(equalUri(right, left)).toBe(equal);
});
