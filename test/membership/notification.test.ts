import { describe, expect, test } from "bun:test";
import { decodeUtf8, encodeUtf8 } from "../../src/core/bytes.ts";
import { BODY_BYTES_MAX, LINES_MAX, parseNodeList, writeNodeList } from "../../src/membership/notification.ts";
import { addressUri, type PeerAddress } from "../../src/membership/peer.ts";

function read(text: string): { lines: string[]; badLines: number } {
  const { lines, badLines } = parseNodeList(encodeUtf8(text));
  return { lines: lines.map(({ address, status }) => `${addressUri(address)} ${status}`), badLines };
}

describe("notification body, read", () => {
  const cases: [name: string, body: string, lines: string[], badLines: number][] = [
    ["a line", "sip:127.0.0.1:5080;status=active\r\n", ["sip:127.0.0.1:5080 active"], 0],
    ["LF alone", "sip:127.0.0.1:5080;status=active\n", ["sip:127.0.0.1:5080 active"], 0],
    ["no line end at all", "sip:127.0.0.1:5080;status=active", ["sip:127.0.0.1:5080 active"], 0],
    ["trailing blanks and NUL", "sip:127.0.0.1:5080;status=active \t\0\r\n", ["sip:127.0.0.1:5080 active"], 0],
    ["an empty body", "", [], 0],
    ["empty lines", "\r\n\r\nsip:127.0.0.1:5080;status=active\r\n\r\n", ["sip:127.0.0.1:5080 active"], 0],
    ["disabled", "sip:127.0.0.1:5080;status=disabled\r\n", ["sip:127.0.0.1:5080 disabled"], 0],
    ["the quoted status", 'sip:127.0.0.1:5080;status="active"\r\n', ["sip:127.0.0.1:5080 active"], 0],
    ["no status", "sip:127.0.0.1:5080\r\n", ["sip:127.0.0.1:5080 active"], 0],
    ["a status of older nodes", "sip:127.0.0.1:5080;status=pending\r\n", ["sip:127.0.0.1:5080 not_active"], 0],
    ["an unknown status", "sip:127.0.0.1:5080;status=Active\r\n", ["sip:127.0.0.1:5080 not_active"], 0],
    [
      "TCP, any order",
      "sip:127.0.0.1:5080;status=active;transport=TCP\r\n",
      ["sip:127.0.0.1:5080;transport=tcp active"],
      0,
    ],
    ["udp spelled out is the same node", "sip:h:5060;transport=udp\r\nsip:h:5060\r\n", ["sip:h:5060 active"], 0],
    ["the empty port of Kamailio", "sip:127.0.0.1:;status=active\r\n", ["sip:127.0.0.1:5060 active"], 0],
    ["IPv6 in its one spelling", "sip:[0:0:0:0:0:0:0:1]:5070\r\nsip:[::1]:5070\r\n", ["sip:[::1]:5070 active"], 0],
    ["a user part", "sip:me@127.0.0.1:5080;status=active\r\n", ["sip:127.0.0.1:5080 active"], 0],
    ["a bad line costs itself only", "nonsense\r\nsip:127.0.0.1:5080\r\nsip:\r\n", ["sip:127.0.0.1:5080 active"], 2],
    ["addresses of nobody", "sip:0.0.0.0:5090\r\nsip:224.0.0.1:5060\r\nsip:1.2.3.4:0\r\n", [], 3],
    ["a transport that we do not speak", "sip:127.0.0.1:5080;transport=sctp\r\n", [], 1],
    [
      "a line beyond all measure",
      `sip:${"a".repeat(600)}:5060\r\nsip:127.0.0.1:5080\r\n`,
      ["sip:127.0.0.1:5080 active"],
      1,
    ],
  ];
  for (const [name, body, lines, badLines] of cases)
    test(`notification: reads ${name}`, () => {
      expect(read(body)).toEqual({ lines, badLines });
    });

  test("notification: reads no more than the limit of lines", () => {
    const body = Array.from({ length: LINES_MAX + 5 }, (_, i) => `sip:127.0.0.1:${i + 1}\r\n`).join("");
    const { lines, badLines } = parseNodeList(encodeUtf8(body));
    expect([lines.length, badLines]).toEqual([LINES_MAX, 1]);
  });
});

describe("notification body, written", () => {
  const local: PeerAddress = { transport: "udp", host: "127.0.0.1", port: 5060 };
  const peer = (ip: string, transport: "udp" | "tcp" = "udp", host = ip): { address: PeerAddress; ip: string } => ({
    address: { transport, host, port: 5070 },
    ip,
  });
  const write = (peers: { address: PeerAddress; ip: string }[], allowIpv6: boolean): string =>
    decodeUtf8(writeNodeList({ address: local, status: "active" }, peers, allowIpv6).body);

  test("notification: has our own line first and CRLF after every line", () => {
    expect(write([peer("127.0.0.2"), peer("127.0.0.3", "tcp")], false)).toBe(
      "sip:127.0.0.1:5060;status=active\r\n" +
        "sip:127.0.0.2:5070;status=active\r\n" +
        "sip:127.0.0.3:5070;transport=tcp;status=active\r\n",
    );
  });

  test("notification: never writes a name, nor a node twice", () => {
    const own = "sip:127.0.0.1:5060;status=active\r\n";
    expect(write([peer("127.0.0.2", "udp", "node.example"), peer("127.0.0.2")], false)).toBe(
      `${own}sip:127.0.0.2:5070;status=active\r\n`,
    );
  });

  test("notification: has IPv6 lines only for a receiver on IPv6", () => {
    expect(write([peer("::1")], false)).toBe("sip:127.0.0.1:5060;status=active\r\n");
    expect(write([peer("::1")], true)).toContain("sip:[::1]:5070;status=active\r\n");
  });

  test("notification: stays below Kamailio's buffer and says what it left out", () => {
    const peers = Array.from({ length: 60 }, (_, i) => peer(`127.0.1.${i + 100}`));
    const { body, omitted } = writeNodeList({ address: local, status: "active" }, peers, false);
    const written = parseNodeList(body).lines.length;
    expect(body.length).toBeLessThanOrEqual(BODY_BYTES_MAX);
    expect(written + omitted).toBe(61);
    expect(written).toBeGreaterThan(25);
  });
});
