/** `dmq serve` with TLS options and places to listen: what an operator sees at a start, at a reload, and when he got it wrong. */
import { afterAll, expect, test } from "bun:test";
import { chmodSync, copyFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { connect } from "node:tls";
import { Certificates, describeTls } from "../helpers/certificates.ts";
import { Daemons, dmq } from "../helpers/daemon.ts";
import { until } from "../helpers/wait.ts";

const SETUP_MS = 30_000;
const OPTIONS = ["--ping-interval", "5", "--channel", "lab", "--log-level", "warn"];

const daemons = new Daemons();
afterAll(() => daemons.endAll(), SETUP_MS);

/** A TCP port of all of 127.0.0.0/8 that was free a moment ago. */
function freePort(): number {
  const listener = Bun.listen({ hostname: "0.0.0.0", port: 0, socket: { data() {} } });
  const { port } = listener;
  listener.stop(true);
  return port;
}

async function refused(args: readonly string[]): Promise<string> {
  const done = await dmq(
    ["serve", "--socket", join(daemons.dir, "x.sock"), "--no-snapshot", "--log-level", "error", ...args],
    {
      timeoutMs: 5_000,
    },
  );
  expect([done.code, done.stdout]).toEqual([9, ""]);
  expect(done.stderr.trim().split("\n")).toHaveLength(1);
  return done.stderr;
}

test("serve at 0.0.0.0 as the address: exit 9, and the line says what to write instead", async () => {
  const said = await refused(["--server-address", "sip:0.0.0.0:5090"]);
  expect(said).toContain('"sip:0.0.0.0:5090"');
  expect(said).toContain("to listen at all addresses, name one of them here and add server_socket udp:0.0.0.0:port");
});

const wrong: [what: string, args: string[], says: string][] = [
  ["a TLS address without a certificate", ["--server-address", "sips:127.0.0.1:5061"], "tls_cert and tls_key"],
  [
    "a TLS socket without a certificate",
    ["--server-socket", "udp:127.0.0.1:0", "--server-socket", "tls:127.0.0.1:0"],
    "tls_cert",
  ],
  [
    "no socket for the address",
    ["--server-address", "sip:127.0.0.1:5062", "--server-socket", "tcp:127.0.0.1:5062"],
    "a server_socket for udp",
  ],
  ["a file that is not there", ["--tls-ca", "/nonexistent.pem"], "/nonexistent.pem (ENOENT)"],
  ["a certificate without its key", ["--tls-cert", "/nonexistent.pem"], "tls_key with the private key"],
  [
    "required certificates without authorities",
    ["--tls-require-client-cert"],
    "tls_ca with the authorities of the others",
  ],
  ["sips over UDP", ["--server-address", "sips:127.0.0.1:5061;transport=udp"], "sips:IP:port"],
];
for (const [what, args, says] of wrong)
  test(`serve with ${what}: exit 9 and one line`, async () => {
    expect(await refused(args)).toContain(says);
  });

test(
  "serve on a wildcard socket, with an address that others know it by",
  async () => {
    const port = freePort();
    const sockets = ["--server-socket", `udp:0.0.0.0:${port}`];
    const seed = await daemons.serve("wild", `sip:127.0.0.1:${port}`, [...sockets, ...OPTIONS]);
    const other = await daemons.serve("other", `sip:127.0.0.2:${freePort()}`, [
      ...OPTIONS,
      "--notification-address",
      seed.uri,
    ]);
    const isActive = async (): Promise<boolean> =>
      (await seed.list()).some(({ uri, status }) => uri === other.uri && status === "active");
    await until(isActive, 5_000, "they know each other");
    expect(await other.send("lab", seed.uri, new Uint8Array(3))).toMatchObject({ code: 202 });
    // An address of no interface here, as behind a NAT: the node starts all the same.
    const nat = await daemons.serve("nat", `sip:10.0.2.1:${port + 1}`, [
      "--server-socket",
      `udp:0.0.0.0:${port + 1}`,
      ...OPTIONS,
    ]);
    expect([(await nat.status()).uri, nat.log]).toEqual([`sip:10.0.2.1:${port + 1}`, ""]);
  },
  SETUP_MS,
);

describeTls("serve with certificates", () => {
  const made = new Certificates();
  afterAll(() => made.remove());
  const authority = made.authority("authority");
  const live = { cert: made.path("live.pem"), key: made.path("live.key") };
  const files = ["--tls-cert", live.cert, "--tls-key", live.key, "--tls-ca", authority.cert];

  function renew(): void {
    const fresh = made.issue(authority, "IP:127.0.0.1");
    copyFileSync(fresh.cert, live.cert);
    copyFileSync(fresh.key, live.key);
  }

  /** @returns the serial number of the certificate that a node shows to somebody new */
  function serialAt(port: number): Promise<string> {
    return new Promise((resolve, reject) => {
      const socket = connect({ host: "127.0.0.1", port, rejectUnauthorized: false }, () => {
        resolve(socket.getPeerCertificate().serialNumber);
        socket.end();
      });
      socket.on("error", reject);
    });
  }

  test("serve with the key of another certificate: exit 9 and one line", async () => {
    const [one, other] = [made.issue(authority, "IP:127.0.0.1"), made.issue(authority, "IP:127.0.0.1")];
    const said = await refused([
      "--server-address",
      "sips:127.0.0.1:5061",
      "--tls-cert",
      one.cert,
      "--tls-key",
      other.key,
    ]);
    expect(said).toContain("tls_key with tls_cert");
    expect(said).toContain(other.key);
  });

  test(
    "reload and SIGHUP read the files again; a wrong file is exit 9, and the old one stays in use",
    async () => {
      renew();
      const port = freePort();
      const uri = `sip:127.0.0.1:${port};transport=tls`;
      const daemon = await daemons.serve("live", uri, [...OPTIONS, ...files]);
      expect((await daemon.status()).uri).toBe(uri);
      const first = await serialAt(port);
      renew();
      expect(await serialAt(port)).toBe(first);
      expect(await daemon.run(["reload"])).toEqual({ code: 0, stdout: "", stderr: "" });
      const second = await serialAt(port);
      expect(second).not.toBe(first);
      renew();
      process.kill((await daemon.status()).pid, "SIGHUP");
      await until(async () => (await serialAt(port)) !== second, 5_000, "the third certificate");
      const third = await serialAt(port);
      expect(daemon.log).toBe("");
      chmodSync(live.key, 0o644);
      expect((await daemon.run(["reload"])).code).toBe(0);
      await until(
        () => daemon.log.includes("can be read by every account"),
        5_000,
        "the warning of a key that all can read",
      );
      writeFileSync(live.cert, "nothing");
      const failed = await daemon.run(["reload"]);
      expect([failed.code, failed.stdout]).toEqual([9, ""]);
      expect(failed.stderr).toContain(`tls_cert: got ${live.cert}, in which there is none`);
      expect(daemon.log).toContain("reload: nothing is changed");
      expect(await serialAt(port)).toBe(third);
      expect(await daemon.end("SIGTERM")).toBe(0);
    },
    SETUP_MS,
  );

  test(
    "a node without files: reload has nothing to do, and says nothing",
    async () => {
      const daemon = await daemons.serve("bare", `sip:127.0.0.1:${freePort()}`, OPTIONS);
      expect(await daemon.run(["reload"])).toEqual({ code: 0, stdout: "", stderr: "" });
    },
    SETUP_MS,
  );
});
