/**
 * Messages with headers of ours to a real Kamailio: it answers them as it answers those without, its health is what it was, and
 * what went over the wire is what was asked for.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { createNode, type Outcome, type RunningNode } from "../../src/index.ts";
import { Capture, captureProblem, type Datagram } from "../helpers/capture.ts";
import { describeInterop, expectHealthy, type KamailioNode, type Lab, startLab } from "../helpers/kamailio.ts";
import { describeWhere } from "../helpers/needs.ts";
import { until } from "../helpers/wait.ts";

const PORT = 5770;
const OURS = "sip:127.0.0.41:5771";
const SETUP_MS = 40_000;
const HEADERS = { accept: "text/plain, application/json", messageId: "backup-2026/11/21~1" };

describeInterop("Accept and X-DMQ-Id at a Kamailio", () => {
  let lab: Lab;
  let kamailio: KamailioNode;
  let node: RunningNode;

  beforeAll(async () => {
    lab = await startLab({ nodes: 1, port: PORT });
    kamailio = lab.nodes[0] as KamailioNode;
    node = await createNode({ serverAddress: OURS, notificationAddresses: [kamailio.uri], requestTimeoutMs: 3_000 });
    await until(() => node.nodes().some(({ status }) => status === "active"), 10_000, "the Kamailio is active");
  }, SETUP_MS);

  afterAll(async () => {
    await node?.close({ announce: false });
    await lab?.down();
  }, SETUP_MS);

  async function send(channel: string, body: string, options: object): Promise<Outcome> {
    const peer = node.nodes()[0]?.uri ?? "";
    return (await node.send(channel, peer, body, options)).outcome;
  }

  for (const channel of ["lab", "nobody-knows-this"])
    test(`headers: a message on ${channel} has the same answer with them and without`, async () => {
      const plain = await send(channel, "plain", {});
      expect(plain.type).not.toBe("timeout");
      expect(await send(channel, "named", HEADERS)).toEqual(plain);
    });

  test("headers: the message itself arrives as it is, and the Kamailio stays well", async () => {
    const body = `with headers ${performance.now()}`;
    expect(await send("lab", body, HEADERS)).toMatchObject({ type: "delivered", code: 200 });
    const octets = new TextEncoder().encode(body);
    await until(() => kamailio.hasReceived("lab", octets), 5_000, "the message in the script of the Kamailio");
    await expectHealthy([kamailio]);
  });

  describeWhere(captureProblem(), "on the wire", () => {
    test("headers: they are octet for octet what was asked for, and are not there unasked", async () => {
      const capture = await Capture.start([PORT]);
      try {
        await send("lab", "octets-plain", {});
        await send("lab", "octets-named", HEADERS);
        const found = async (body: string): Promise<Datagram> =>
          until(() => capture.datagrams().find(({ text }) => text.endsWith(`\r\n\r\n${body}`)), 5_000, body);
        const [plain, named] = [await found("octets-plain"), await found("octets-named")];
        expect(plain.text).not.toMatch(/^(Accept|X-DMQ-Id):/m);
        expect(named.text).toContain(`\r\nX-DMQ-Id: ${HEADERS.messageId}\r\nAccept: ${HEADERS.accept}\r\n`);
      } finally {
        await capture.stop();
      }
    });
  });
});
