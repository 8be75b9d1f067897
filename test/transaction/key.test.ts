import { describe, expect, test } from "bun:test";
import { branchKey, branchKeyAt, hasMagicCookie, type ServerKeyParts, serverKey } from "../../src/transaction/key.ts";

const MODERN: ServerKeyParts = { branch: "z9hG4bKabc", host: "127.0.0.1", port: 5060, method: "KDMQ" };
const LEGACY: ServerKeyParts = {
  branch: "1",
  host: "127.0.0.1",
  port: 5060,
  method: "KDMQ",
  requestUri: "sip:channel@127.0.0.2:5060",
  toTag: undefined,
  fromTag: "f",
  callId: "c@h",
  cseq: "1 KDMQ",
  topVia: "SIP/2.0/UDP 127.0.0.1:5060;branch=1",
};

describe("server key", () => {
  test("a branch with the cookie is matched by branch, sent-by and method alone", () => {
    expect(serverKey({ ...MODERN, callId: "a", topVia: "b" })).toBe(serverKey(MODERN));
    expect(serverKey({ ...MODERN, host: "NODE.example" })).toBe(serverKey({ ...MODERN, host: "node.EXAMPLE" }));
  });

  test.each<[Partial<ServerKeyParts>]>([
    [{ branch: "z9hG4bKabd" }],
    [{ branch: "z9hG4bKABC" }],
    [{ host: "127.0.0.2" }],
    [{ host: "::1" }],
    [{ port: 5061 }],
    [{ port: undefined }],
    [{ method: "OPTIONS" }],
  ])("with the cookie, %j makes another request", (change) => {
    expect(serverKey({ ...MODERN, ...change })).not.toBe(serverKey(MODERN));
  });

  test.each<[Partial<ServerKeyParts>]>([
    [{ method: "OPTIONS" }],
    [{ requestUri: "sip:other@127.0.0.2:5060" }],
    [{ toTag: "" }],
    [{ fromTag: "g" }],
    [{ callId: "d@h" }],
    [{ cseq: "2 KDMQ" }],
    [{ topVia: "SIP/2.0/UDP 127.0.0.1:5060;branch=2" }],
  ])("without the cookie, %j makes another request (RFC 2543)", (change) => {
    expect(serverKey({ ...LEGACY })).toBe(serverKey(LEGACY));
    expect(serverKey({ ...LEGACY, ...change })).not.toBe(serverKey(LEGACY));
  });

  test.each([[undefined], [""], ["1"], ["z9hG4bK"], ["Z9HG4BKabc"], ["az9hG4bKabc"]])(
    "branch %p is no identity by itself",
    (branch) => {
      expect(hasMagicCookie(branch)).toBe(false);
      expect(serverKey({ ...MODERN, branch, callId: "a" })).not.toBe(serverKey({ ...MODERN, branch, callId: "b" }));
    },
  );

  test("remote text cannot move the borders between parts", () => {
    const moved = { ...LEGACY, fromTag: "f 3:c@h", callId: "" };
    expect(serverKey(moved)).not.toBe(serverKey(LEGACY));
    expect(serverKey({ ...MODERN, branch: "z9hG4bK KDMQ" })).not.toBe(serverKey({ ...MODERN, branch: "z9hG4bK" }));
    expect(serverKey({ ...LEGACY, toTag: undefined })).not.toBe(serverKey({ ...LEGACY, toTag: "-" }));
  });
});

describe("branch key", () => {
  test("of a branch of ours is its two numbers; another one of its length has a fingerprint", () => {
    expect({ ...branchKey("z9hG4bK89abcdef01234567") }).toEqual({ high: 0x89ab_cdef, low: 0x0123_4567 });
    for (const other of ["z9hG4bK89ABcdef01234567", "z9hG4bK89abcdef0123456g", "z9hG4bK89abcde/01234567"])
      expect({ ...branchKey(other) }).not.toMatchObject({ high: 0x89ab_cdef });
    expect({ ...branchKey("Z9HG4BK89abcdef01234567") }).not.toMatchObject({ high: 0x89ab_cdef });
  });

  test.each(["z9hG4bK0123456789abcdef", "z9hG4bK0123456789ABCDEF", "z9hG4bKtag.0", "x", ""])(
    "of %j is the same as text and as octets",
    (branch) => {
      const octets = new TextEncoder().encode(`branch=${branch};rport`);
      const asText = { ...branchKey(branch) };
      expect({ ...branchKeyAt(octets, 7, 7 + branch.length) }).toEqual(asText);
      expect({ ...branchKey(`${branch}x`) }).not.toEqual(asText);
    },
  );
});
