/**
 * `--via` against real Kamailios: what was sent arrives, and nobody there knows of us afterwards. What went over the wire
 * says why: no line of ours, and nothing that a Kamailio sends us but answers.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { Capture, captureProblem, type Datagram } from "../helpers/capture.ts";
import { Certificates, describeTls } from "../helpers/certificates.ts";
import { type DeliveryRow, dmq, jsonRows, type ListRow } from "../helpers/daemon.ts";
import {
  describeInterop,
  expectHealthy,
  type KamailioNode,
  type Lab,
  startLab,
  tlsLabProblem,
} from "../helpers/kamailio.ts";
import { describeWhere } from "../helpers/needs.ts";
import { until } from "../helpers/wait.ts";

const PORT = 5590;
const SETUP_MS = 60_000;
const TEST_MS = 60_000;
/** Nobody listens there. */
const DEAD = `sip:127.0.0.98:${PORT}`;
const FIXED = "127.0.0.77";

describeInterop("without a daemon", () => {
  let lab: Lab;
  let first: KamailioNode;
  let second: KamailioNode;
  beforeAll(async () => {
    lab = await startLab({ port: PORT });
    [first, second] = lab.nodes as [KamailioNode, KamailioNode];
  }, SETUP_MS);
  afterAll(() => lab?.down(), SETUP_MS);

  const lists = (): Promise<string[]> => Promise.all(lab.nodes.map((node) => node.cmd("dmq.list_nodes")));

  for (const [what, suffix] of [
    ["udp", ""],
    ["tcp", ";transport=tcp"],
  ] as const)
    test(
      `a broadcast over ${what} arrives at both, and dmq.list_nodes there is the same before and after`,
      async () => {
        const before = await lists();
        const body = `to all over ${what}`;
        const via = ["--via", DEAD, "--via", `${first.uri}${suffix}`];
        const done = await dmq(["bcast", "--json", ...via, "lab", body]);
        expect(done).toMatchObject({ code: 0, stderr: "" });
        expect(jsonRows<DeliveryRow>(done.stdout).map(({ node, code }) => `${node} ${code}`)).toEqual([
          `${second.uri} 200`,
          `${first.uri} 200`,
        ]);
        for (const node of lab.nodes) expect(node.hasReceived("lab", new TextEncoder().encode(body))).toBe(true);
        expect(await lists()).toEqual(before);
        await expectHealthy(lab.nodes);
      },
      TEST_MS,
    );

  test(
    "send, req and list: the results of a daemon, with its exit codes",
    async () => {
      const via = ["--via", first.uri];
      const sent = await dmq(["send", ...via, "lab", second.uri, "to one"]);
      expect(sent).toMatchObject({ code: 0, stderr: "" });
      expect(sent.stdout).toStartWith(`${second.uri}\t200\tOK\t`);
      expect((await dmq(["send", ...via, "nobodys", second.uri, "x"])).code).toBe(3);
      expect((await dmq(["send", ...via, "lab", DEAD, "x"])).code).toBe(3);
      expect((await dmq(["send", ...via, "htable", second.uri, "{}"])).code).toBe(2);
      expect(
        (await dmq(["bcast", "--except", first.uri, "lab", "x"], { env: { DMQ_VIA: second.uri } })).stdout,
      ).toStartWith(`${second.uri}\t200\t`);
      expect((await dmq(["req", ...via, "--all", "lab", "x"])).code).toBe(0);
      const rows = jsonRows<ListRow>((await dmq(["list", "--json", ...via])).stdout);
      expect(rows.map(({ uri, status, source }) => [uri, status, source])).toEqual([
        [second.uri, "active", "mentioned"],
        [first.uri, "active", "via"],
      ]);
      const nobody = await dmq(["bcast", "--via", DEAD, "lab", "x"]);
      expect(nobody).toMatchObject({ code: 4, stdout: "" });
      expect(nobody.stderr).toStartWith(`dmq: no node list from --via: ${DEAD}: ECONNREFUSED`);
    },
    TEST_MS,
  );

  test(
    "every line of an input arrives, and has its result",
    async () => {
      const lines = Array.from({ length: 200 }, (_, index) => `line ${index}`);
      const stdin = new TextEncoder().encode(`${lines.join("\n")}\n`);
      const done = await dmq(["send", "-l", "--via", first.uri, "lab", second.uri], { stdin });
      expect(done).toMatchObject({ code: 0, stderr: "" });
      expect(done.stdout.trim().split("\n")).toHaveLength(200);
      for (const line of lines) expect(second.hasReceived("lab", new TextEncoder().encode(line))).toBe(true);
    },
    TEST_MS,
  );

  test(
    "the process ends as soon as the outcome is there",
    async () => {
      const startedAt = performance.now();
      expect((await dmq(["send", "--via", first.uri, "lab", second.uri, "quick"])).code).toBe(0);
      // Timer K alone is 5 s.
      expect(performance.now() - startedAt).toBeLessThan(2_500);
    },
    TEST_MS,
  );

  describeWhere(captureProblem(), "on the wire", () => {
    test(
      "nothing that we say names us, and from then on nobody speaks to us",
      async () => {
        const before = await lists();
        const capture = await Capture.start([PORT]);
        try {
          const from = ["--from-address", `sip:${FIXED}`];
          expect((await dmq(["bcast", "--via", first.uri, ...from, "lab", "on the wire"])).code).toBe(0);
          const count = capture.datagrams().length;
          // Each of the two has pinged since then whomever it knows.
          const pings = (): boolean => {
            const later = capture.datagrams().slice(count).filter(isNotification);
            return lab.nodes.every((node) => later.some((datagram) => datagram.from === `${node.ip}:${PORT}`));
          };
          await until(pings, 20_000, "both Kamailios ping each other");
          const all = capture.datagrams();
          const ours = all.filter((datagram) => datagram.from.startsWith(`${FIXED}:`));
          expect(ours.map(({ to, text }) => [to, channelOf(text)]).sort()).toEqual([
            [`${first.ip}:${PORT}`, "lab"],
            [`${first.ip}:${PORT}`, "notification_peer"],
            [`${second.ip}:${PORT}`, "lab"],
          ]);
          for (const { text } of ours) expect(text).not.toContain("status=");
          const [question] = ours.filter(isNotification);
          expect(question?.text).toContain("\r\nContent-Length: 0\r\n");
          expect(question?.text).toEndWith("\r\n\r\n");
          const toUs = all.filter((datagram) => datagram.to.startsWith(`${FIXED}:`));
          expect(toUs.map(({ text }) => text.slice(0, 11))).toEqual(["SIP/2.0 200", "SIP/2.0 200", "SIP/2.0 200"]);
          const others = all.filter((datagram) => !ours.includes(datagram) && isNotification(datagram));
          expect(others.filter(({ text }) => text.includes(FIXED))).toEqual([]);
          expect(await lists()).toEqual(before);
        } finally {
          await capture.stop();
        }
      },
      TEST_MS,
    );
  });
});

function isNotification({ text }: Datagram): boolean {
  return text.startsWith("KDMQ sip:notification_peer@");
}

function channelOf(text: string): string {
  return /^KDMQ sip:([^@]+)@/.exec(text)?.[1] ?? text.slice(0, 20);
}

describeInterop(
  "without a daemon, over TLS",
  () =>
    describeTls("certificates", () => {
      const made = new Certificates();
      const authority = made.authority("authority");
      const theirs = { ...made.issue(authority, "IP:127.0.0.11,IP:127.0.0.12"), ca: authority.cert };
      const ours = made.issue(authority, "IP:127.0.0.1");
      const env = { DMQ_TLS_CERT: ours.cert, DMQ_TLS_KEY: ours.key, DMQ_TLS_CA: authority.cert };
      let lab: Lab;
      beforeAll(async () => {
        lab = await startLab({ port: 5690, transport: "tls", tls: { ...theirs, requireClientCert: true } });
      }, SETUP_MS);
      afterAll(async () => {
        await lab?.down();
        made.remove();
      }, SETUP_MS);

      test(
        "a broadcast arrives at both, who want a certificate; without one it is said whose move it is",
        async () => {
          const [first] = lab.nodes as [KamailioNode];
          const before = await first.cmd("dmq.list_nodes");
          const done = await dmq(["bcast", "--via", first.uri, "lab", "over tls"], { env });
          expect(done).toMatchObject({ code: 0, stderr: "" });
          for (const node of lab.nodes)
            expect(node.hasReceived("lab", new TextEncoder().encode("over tls"))).toBe(true);
          expect(await first.cmd("dmq.list_nodes")).toBe(before);
          const strange = await dmq(["bcast", "--via", first.uri, "lab", "x"]);
          expect(strange.code).toBe(4);
          expect(strange.stderr).toContain("unknown authority");
        },
        TEST_MS,
      );
    }),
  tlsLabProblem(),
);
