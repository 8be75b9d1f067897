/**
 * Invariant: any body gives at most a thousand lines, each of a node once, and costs nobody but its own bad lines; what is written
 * of what was read fits a Kamailio's buffer, ends every line with CRLF, has no duplicate, and reads back as the same nodes.
 */
import fc from "fast-check";
import { concatBytes, decodeUtf8, encodeUtf8 } from "../../src/core/bytes.ts";
import { canonicalIp } from "../../src/core/endpoint.ts";
import {
  BODY_BYTES_MAX,
  LINES_MAX,
  type NodeLine,
  parseNodeList,
  writeNodeList,
} from "../../src/membership/notification.ts";
import { addressKey } from "../../src/membership/peer.ts";
import { mutated, uri } from "./octets.ts";
import { must, type Target } from "./target.ts";

const LOCAL: NodeLine = { address: { transport: "udp", host: "127.0.0.1", port: 5060 }, status: "active" };
const PIECES = [
  ...[
    "sip:127.0.0.2:5060;status=active\r\n",
    "\r\n",
    "\n",
    ";status=",
    ";status=disabled",
    ';status="active"',
    ";transport=tcp",
  ],
  ...[
    "sip:",
    "sips:",
    "[::1]",
    "0.0.0.0",
    ":5060",
    ":0",
    "\0",
    "ж",
    ";",
    "=",
    "%3b",
    " ",
    "\t",
    "node1.example",
    "255.255.255.255",
  ],
].map(encodeUtf8);

function checkWritten(lines: readonly NodeLine[]): void {
  const peers = lines.flatMap(({ address }) => {
    const ip = canonicalIp(address.host);
    return ip === undefined ? [] : [{ address, ip }];
  });
  const { body } = writeNodeList(LOCAL, peers, true);
  const text = decodeUtf8(body);
  must(body.length <= BODY_BYTES_MAX, `a list of ${body.length} octets`);
  must(
    text.endsWith("\r\n") && !text.replaceAll("\r\n", "").includes("\n"),
    `a line without CRLF: ${JSON.stringify(text)}`,
  );
  const written = text.split("\r\n").slice(0, -1);
  must(new Set(written).size === written.length, `a line twice: ${JSON.stringify(text)}`);
  const again = parseNodeList(body);
  must(again.badLines === 0, `a line that we cannot read ourselves: ${JSON.stringify(text)}`);
  const known = new Set([
    addressKey(LOCAL.address),
    ...peers.map(({ address, ip }) => addressKey({ ...address, host: ip })),
  ]);
  for (const { address } of again.lines) must(known.has(addressKey(address)), `a node of nowhere: ${address.host}`);
}

function run(body: Uint8Array): string[] {
  const list = parseNodeList(body, "127.0.0.9");
  must(list.lines.length + list.badLines <= LINES_MAX + 1, `${list.lines.length} lines`);
  const keys = new Set(list.lines.map(({ address }) => addressKey(address)));
  must(keys.size === list.lines.length, "a node twice");
  checkWritten(list.lines);
  const words = list.lines.map(
    ({ address, status }) =>
      `${address.transport} ${canonicalIp(address.host) === undefined ? "name" : "ip"} ${status}`,
  );
  return [...new Set(words), `bad lines ${Math.min(3, list.badLines)}`, `lines ${Math.min(3, list.lines.length)}`];
}

const status = fc.constantFrom("active", "disabled", "not_active", "pending", "timeout", "", '"active"', "x");
const line = fc
  .tuple(uri, fc.option(status), fc.constantFrom("\r\n", "\n", "", "\0\r\n", " \r\n"))
  .map(([node, state, end]) => encodeUtf8(`${node}${state === null ? "" : `;status=${state}`}${end}`));
const good = fc
  .tuple(fc.ipV4(), fc.integer({ min: 1, max: 65_535 }), fc.constantFrom("", ";transport=tcp", ";transport=tls"))
  .map(([ip, port, more]) => encodeUtf8(`sip:${ip}:${port}${more};status=active\r\n`));

export const notification: Target<Uint8Array> = {
  name: "notification",
  inputs: (pool) =>
    fc.oneof(
      { weight: 3, arbitrary: fc.array(fc.oneof(line, good), { maxLength: 40 }).map(concatBytes) },
      { weight: 3, arbitrary: mutated(PIECES, pool) },
      { weight: 1, arbitrary: fc.array(good, { minLength: 900, maxLength: 1_200 }).map(concatBytes) },
    ),
  run,
  seedOf: (body) => body,
};

export const NODE_LISTS: readonly Uint8Array[] = [
  "sip:127.0.0.1:5060;status=active\r\nsip:127.0.0.2:5060;status=disabled\r\n",
  "sip:[::1]:5060;transport=tcp;status=active\r\n",
  'sip:node1.example;status="active"\r\n',
].map(encodeUtf8);
