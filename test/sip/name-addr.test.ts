import { expect, test } from "bun:test";
import { ProtocolError } from "../../src/core/errors.ts";
import { parseNameAddr } from "../../src/sip/name-addr.ts";
import { value } from "./octets.ts";

test.each([
  ["<sip:lab@127.0.0.1>;tag=a", undefined, "sip:lab@127.0.0.1", { tag: "a" }],
  ["sip:lab@127.0.0.1;tag=a", undefined, "sip:lab@127.0.0.1", { tag: "a" }],
  ["<sip:lab@127.0.0.1;transport=tcp>", undefined, "sip:lab@127.0.0.1;transport=tcp", {}],
  ["sip:lab@[::1]:5060 ; TAG = a", undefined, "sip:lab@[::1]:5060", { tag: "a" }],
  ["A. Bell <sip:a@example.com>;tag=q", "A. Bell", "sip:a@example.com", { tag: "q" }],
  ["caller<sip:caller@example.com>", "caller", "sip:caller@example.com", {}],
  ['"J \\"R\\" \\\\" <sip:j@example.com>', 'J "R" \\', "sip:j@example.com", {}],
  ['"Bell, <Alexander>"<sip:a@example.com>;x="a;\\"b"', "Bell, <Alexander>", "sip:a@example.com", { x: 'a;"b' }],
  ['"" <sip:a@example.com>', "", "sip:a@example.com", {}],
  ["isbn:2983792873", undefined, "isbn:2983792873", {}],
  ["<http://www.example.com>;tag=3", undefined, "http://www.example.com", { tag: "3" }],
  ["<sip:a@example.com>;lr;x=[2001:db8::1]:5", undefined, "sip:a@example.com", { lr: undefined, x: "[2001:db8::1]:5" }],
])("address: reads %s", (text, displayName, uri, params) => {
  const read = value(parseNameAddr(text));
  expect([read.displayName, read.uri, Object.fromEntries(read.params)]).toEqual([displayName, uri, params]);
});

test.each([
  "",
  "<>",
  "<sip:>",
  "<sip:a@example.com",
  "sip:a@example.com>",
  '"open <sip:a@example.com>',
  '"a\\',
  "Bell, Alexander <sip:a@example.com>;tag=1",
  "< sip:a@example.com >",
  "<sip:a b@example.com>",
  "<sip:a@example.com> x",
  "<sip:a@example.com>;",
  "<sip:a@example.com>;;tag=1",
  "<sip:a@example.com>;tag=",
  "<sip:a@example.com>;tag=1;Tag=2",
  "<sip:a@example.com>, <sip:b@example.com>",
  "sip:a@example.com?Route=b",
  "nothing",
])("address: refuses %p", (text) => {
  expect(parseNameAddr(text)).toBeInstanceOf(ProtocolError);
});
