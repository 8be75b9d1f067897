/**
 * Real Kamailio over TLS: the whole of bus.ts with certificates required on both sides, the lab's own way with none verified,
 * and each kind of wrong certificate, refused by one side and by the other, with the reason where an operator looks for it.
 */
import { afterAll, afterEach, describe, expect, test } from "bun:test";
import { Certificates, describeTls } from "../helpers/certificates.ts";
import { bodyOf, type Daemon, Daemons } from "../helpers/daemon.ts";
import {
  describeInterop,
  type KamailioNode,
  type Lab,
  type LabTls,
  startLab,
  tlsLabProblem,
} from "../helpers/kamailio.ts";
import { until } from "../helpers/wait.ts";
import { describeBus } from "./bus.ts";

const SETUP_MS = 40_000;
const TEST_MS = 60_000;
const PORT = 5770;

describeInterop("tls", () => describeTls("certificates", scenes), tlsLabProblem());

function scenes(): void {
  const made = new Certificates();
  afterAll(() => made.remove());
  const authority = made.authority("authority");
  const stranger = made.authority("stranger");
  const ca = authority.cert;
  const theirs = { ...made.issue(authority, "IP:127.0.0.11,IP:127.0.0.12"), ca, requireClientCert: true };
  const ours = made.issue(authority, "IP:127.0.0.41,IP:127.0.0.42,IP:127.0.0.43");
  const files = ["--tls-cert", ours.cert, "--tls-key", ours.key, "--tls-ca", ca];

  describeBus({
    name: "mutual tls",
    transport: "tls",
    lab: { port: PORT, transport: "tls", tls: theirs },
    options: [...files, "--tls-require-client-cert"],
    uris: [
      "sip:127.0.0.41:5761;transport=tls",
      "sip:127.0.0.42:5761;transport=tls",
      "sip:127.0.0.43:5761;transport=tls",
    ],
    // The lab reads 300,000 octets with headers, but its script sends and stores no more than 100,000 (pv_buffer_size).
    bodyBytesMax: 99_000,
    sendBytesMax: 299_000,
    sharesAddress: false,
  });

  describe("one Kamailio", () => {
    let lab: Lab | undefined;
    let daemons = new Daemons();
    const uri = "sip:127.0.0.41:5761;transport=tls";
    const options = ["--ping-interval", "5", "--request-timeout", "20s", "--channel", "lab", "--log-level", "warn"];

    afterEach(async () => {
      await daemons.endAll();
      await lab?.down();
      lab = undefined;
      daemons = new Daemons();
    }, SETUP_MS);
    afterAll(() => daemons.endAll(), SETUP_MS);

    async function kamailio(tls: LabTls | undefined, seed?: string): Promise<KamailioNode> {
      lab = await startLab({
        ...{ nodes: 1, port: PORT, transport: "tls" },
        ...(tls !== undefined && { tls }),
        ...(seed !== undefined && { seed }),
      });
      return lab.nodes[0] as KamailioNode;
    }

    function serve(more: readonly string[] = []): Promise<Daemon> {
      return daemons.serve("n0", uri, [...options, ...more]);
    }

    test(
      "server certificates alone: they meet, and channel data goes both ways",
      async () => {
        const node = await kamailio({ cert: theirs.cert, key: theirs.key, ca });
        const daemon = await serve([...files, "--notification-address", node.uri]);
        await until(() => node.hasActive("127.0.0.41"), 10_000, "Kamailio has us as active");
        const body = new TextEncoder().encode("over TLS");
        expect(await daemon.send("lab", node.uri, body)).toMatchObject({ outcome: "delivered", code: 200 });
        expect(node.hasReceived("lab", body)).toBe(true);
        const listener = await daemon.listen("lab-back");
        expect(await node.bcast("lab-back", body)).toBe(200);
        await until(() => listener.messages.some((one) => Bun.deepEquals(bodyOf(one), body)), 5_000, "the message");
        expect(daemon.log).toBe("");
      },
      TEST_MS,
    );

    test(
      "a Kamailio whose certificate nobody vouches for: our log and the exit of send say why, and tls_verify none takes it",
      async () => {
        const node = await kamailio(undefined);
        const strict = await serve([...files, "--notification-address", node.uri]);
        const reason = /its certificate is self-signed and not in tls_ca/;
        await until(() => reason.test(strict.log), 5_000, "the reason in our log");
        expect(strict.log).toContain("tls-refused");
        const sent = await strict.run(["send", "lab", node.uri, "x"]);
        expect(sent.code).toBe(4);
        expect(sent.stderr).toMatch(reason);
        await strict.end("SIGKILL");
        const careless = await serve([...files, "--tls-verify", "none", "--notification-address", node.uri]);
        await until(() => node.hasActive("127.0.0.41"), 10_000, "Kamailio has us as active");
        expect(await careless.send("lab", node.uri, new Uint8Array(10))).toMatchObject({ code: 200 });
      },
      TEST_MS,
    );

    const wrongOnes: [what: string, issue: () => LabTls, reason: RegExp][] = [
      ["of another authority", () => made.issue(stranger, "IP:127.0.0.11"), /from an unknown authority, stranger/],
      ["that has expired", () => made.issue(authority, "IP:127.0.0.11", { from: -9, to: -2 }), /expired on/],
      [
        "for another address",
        () => made.issue(authority, "IP:127.0.0.9"),
        /is not for 127\.0\.0\.11, but for IP Address:127\.0\.0\.9/,
      ],
    ];
    for (const [what, issue, reason] of wrongOnes)
      test(
        `a Kamailio with a certificate ${what}: exit 4 and the reason`,
        async () => {
          const node = await kamailio(issue());
          const daemon = await serve([...files, "--notification-address", node.uri]);
          const sent = await daemon.run(["send", "lab", node.uri, "x"]);
          expect([sent.code, sent.stdout.includes("unreachable")]).toEqual([4, true]);
          expect(sent.stderr).toMatch(reason);
          expect(daemon.log).toMatch(reason);
          expect(node.arrivals("lab")).toEqual([]);
        },
        TEST_MS,
      );

    const refusedThere: [what: string, files: () => string[], reason: RegExp][] = [
      [
        "of another authority",
        () => {
          const { cert, key } = made.issue(stranger, "IP:127.0.0.41");
          return ["--tls-cert", cert, "--tls-key", key, "--tls-ca", ca];
        },
        /alert 48 unknown_ca/,
      ],
      [
        "that has expired",
        () => {
          const { cert, key } = made.issue(authority, "IP:127.0.0.41", { from: -9, to: -2 });
          return ["--tls-cert", cert, "--tls-key", key, "--tls-ca", ca];
        },
        /alert 45 certificate_expired/,
      ],
    ];
    for (const [what, wrong, reason] of refusedThere)
      test(
        `our certificate ${what} at a Kamailio that requires one: exit 4 at once, with its alert`,
        async () => {
          const node = await kamailio(theirs);
          const daemon = await serve([...wrong(), "--notification-address", node.uri]);
          const begun = performance.now();
          const sent = await daemon.run(["send", "lab", node.uri, "x"]);
          expect(performance.now() - begun).toBeLessThan(5_000);
          expect(sent.code).toBe(4);
          expect(sent.stderr).toMatch(reason);
          expect(daemon.log).toMatch(reason);
          expect(node.arrivals("lab")).toEqual([]);
        },
        TEST_MS,
      );

    test(
      "a node without a certificate at a Kamailio that requires one: exit 4 with its alert",
      async () => {
        const node = await kamailio(theirs);
        const daemon = await daemons.serve("n0", "sip:127.0.0.41:5760", [
          ...options,
          "--tls-ca",
          ca,
          "--notification-address",
          node.uri,
        ]);
        const sent = await daemon.run(["send", "lab", node.uri, "x"]);
        expect(sent.code).toBe(4);
        expect(sent.stderr).toMatch(/alert 116 certificate_required/);
      },
      TEST_MS,
    );

    test(
      "a Kamailio that verifies and does not know our authority: our log names its alert, and it does not list us",
      async () => {
        const wrong = made.issue(stranger, "IP:127.0.0.41");
        const daemon = await serve(["--tls-cert", wrong.cert, "--tls-key", wrong.key, "--tls-ca", ca]);
        const node = await kamailio({ cert: theirs.cert, key: theirs.key, ca }, uri);
        await until(() => /tls handshake from .*alert 48 unknown_ca/.test(daemon.log), 10_000, "the reason in our log");
        expect(await node.hasActive("127.0.0.41")).toBe(false);
      },
      TEST_MS,
    );

    const strangers: [what: string, tls: () => LabTls | undefined, reason: RegExp][] = [
      [
        "of another authority",
        () => made.issue(stranger, "IP:127.0.0.11"),
        /from an unknown authority, stranger, which is not in tls_ca/,
      ],
      [
        "that it does not show",
        () => ({ ...made.issue(authority, "IP:127.0.0.11"), anonymous: true }),
        /it gave no client certificate, and tls_require_client_cert wants one/,
      ],
      ["that is self-signed", () => undefined, /its certificate is self-signed and not in tls_ca/],
    ];
    for (const [what, tls, reason] of strangers)
      test(
        `a Kamailio with a client certificate ${what} at our node that requires one: refused, and our log says so`,
        async () => {
          const daemon = await serve([...files, "--tls-require-client-cert"]);
          const node = await kamailio(tls(), uri);
          await until(() => reason.test(daemon.log), 10_000, "the reason in our log");
          expect(daemon.log).toMatch(/tls handshake from tls:127\.0\.0\.11:\d+ failed/);
          expect((await daemon.list()).map(({ local }) => local)).toEqual([1]);
          expect(await node.hasActive("127.0.0.41")).toBe(false);
        },
        TEST_MS,
      );
  });
}
