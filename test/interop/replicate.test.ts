/**
 * `dmq_t_replicate` in both directions with real Kamailio registrars: what they replicate arrives at our route, what we
 * replicate shows in their location tables, and nothing goes round in a circle (counted on the wire).
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createNode, type IncomingRequest, type RunningNode } from "../../src/index.ts";
import { Capture, captureProblem } from "../helpers/capture.ts";
import { type Daemon, Daemons } from "../helpers/daemon.ts";
import { describeInterop, expectHealthy, type KamailioNode, type Lab, startLab } from "../helpers/kamailio.ts";
import { describeWhere } from "../helpers/needs.ts";
import { until } from "../helpers/wait.ts";

const PORT = 5490;
const OURS = "sip:127.0.0.21:5480";
const LIBRARY = "sip:127.0.0.22:5480";
const SETUP_MS = 60_000;
const TEST_MS = 60_000;

let calls = 0;

/** A REGISTER as a phone at `phone` writes it; the Via says another host than the one that it comes from. */
function register(user: string, options: { to: string; phone: string; headers?: string[] }): string {
  const id = `${user}-${++calls}-${process.pid}`;
  return [
    `REGISTER sip:${options.to} SIP/2.0`,
    `Via: SIP/2.0/UDP 10.9.8.7:5099;rport;branch=z9hG4bK${id}`,
    `From: <sip:${user}@${options.to}>;tag=${id}`,
    `To: <sip:${user}@${options.to}>`,
    `Call-ID: ${id}`,
    "CSeq: 1 REGISTER",
    "Max-Forwards: 70",
    `Contact: <sip:${user}@${options.phone}>;q=0.5`,
    "Expires: 300",
    "User-Agent: phone",
    ...(options.headers ?? []),
    "Route: <sip:127.0.0.99:5060;lr>",
    "Content-Length: 0",
    "",
    "",
  ].join("\r\n");
}

/** Sends from a socket of its own address; resolves with the answer. */
class Phone {
  static async at(ip: string): Promise<Phone> {
    const heard: string[] = [];
    const data = (_: unknown, octets: Buffer): void => void heard.push(octets.toString("latin1"));
    return new Phone(await Bun.udpSocket({ hostname: ip, socket: { data } }), heard);
  }

  readonly #socket: Bun.udp.Socket<"buffer">;
  readonly #heard: string[];

  private constructor(socket: Bun.udp.Socket<"buffer">, heard: string[]) {
    this.#socket = socket;
    this.#heard = heard;
  }

  get address(): string {
    return `${this.#socket.address.address}:${this.#socket.port}`;
  }

  async ask(request: string, node: { ip: string; port: number }): Promise<string> {
    const before = this.#heard.length;
    this.#socket.send(request, node.port, node.ip);
    return until(() => this.#heard[before], 5_000, `an answer of ${node.ip}:${node.port}`);
  }

  end(): void {
    this.#socket.close();
  }
}

function callIdOf(request: string): string {
  return /Call-ID: (\S+)/.exec(request)?.[1] as string;
}

function withoutTopVia(request: string): string {
  return request.replace(/\r\nVia: [^\r]*/, "");
}

describeInterop("dmq_t_replicate", () => {
  let lab: Lab;
  let daemons: Daemons;
  let ours: Daemon;
  let library: RunningNode;
  let phone: Phone;
  const seen: IncomingRequest[] = [];

  beforeAll(async () => {
    daemons = new Daemons();
    lab = await startLab({ port: PORT });
    const [first] = lab.nodes as [KamailioNode];
    const options = ["--notification-address", first.uri, "--ping-interval", "5s", "--replicate", "REGISTER=202"];
    ours = await daemons.serve("n1", OURS, options);
    library = await createNode(
      { serverAddress: LIBRARY, notificationAddresses: [first.uri], pingIntervalMs: 5_000 },
      (node) => {
        node.onRequest((request) => {
          seen.push(request);
          return 200;
        });
        for (const channel of ["htable", "usrloc", "dialog"]) node.declare(channel);
      },
    );
    phone = await Phone.at("127.0.0.1");
    for (const node of lab.nodes) {
      const active = async (): Promise<boolean> =>
        (await node.list()).filter(({ status }) => status === "active").length === 4;
      await until(active, 15_000, `${node.uri} has four active nodes`);
    }
    await until(
      async () => (await ours.list()).filter(({ status }) => status === "active").length === 4,
      15_000,
      "ours has them too",
    );
  }, SETUP_MS);

  afterAll(async () => {
    phone?.end();
    await library?.close({ announce: false });
    await daemons.endAll();
    await lab?.down();
  }, SETUP_MS);

  test(
    "a REGISTER by sipsak that a Kamailio replicates arrives at our route, and is answered by it",
    async () => {
      const tool = Bun.which("sipsak");
      if (tool === null) throw new Error("sipsak is not installed");
      const [first] = lab.nodes as [KamailioNode];
      const dir = mkdtempSync(join(tmpdir(), "sk-"));
      const file = join(dir, "register.sip");
      const text = register("rita", { to: first.ip, phone: "127.0.0.1:5099", headers: ["X-Replicate: yes"] });
      writeFileSync(file, text);
      const child = Bun.spawn([tool, "-f", file, "-s", `sip:rita@${first.ip}:${first.port}`], {
        stdio: ["ignore", "ignore", "pipe"],
        timeout: 20_000,
      });
      expect([await child.exited, await new Response(child.stderr).text()]).toEqual([0, ""]);
      rmSync(dir, { recursive: true });
      const copy = await until(
        () => seen.find(({ request }) => request.headers.get("Call-ID") === callIdOf(text)),
        5_000,
        "the copy at our route",
      );
      expect(copy).toMatchObject({ method: "REGISTER", fromNode: true, uri: `sip:${first.ip}` });
      expect(copy.source.ip).toBe(first.ip);
      expect(library.isFromNode(copy)).toBe(true);
      expect(await library.replicate(copy)).toEqual([]);
    },
    TEST_MS,
  );

  test(
    "our copies are a Kamailio's copies, octet by octet, but for the Via on top",
    async () => {
      const [first, second] = lab.nodes as [KamailioNode, KamailioNode];
      const theirs = register("carl", { to: "127.0.0.9", phone: phone.address, headers: ["X-Replicate: yes"] });
      await phone.ask(theirs, first);
      const fromKamailio = await until(() => second.replica(callIdOf(theirs)), 5_000, "the copy of a Kamailio");
      const mine = theirs.replaceAll(callIdOf(theirs), `${callIdOf(theirs)}-x`);
      await phone.ask(mine, { ip: "127.0.0.21", port: 5480 });
      const fromUs = await until(() => second.replica(callIdOf(mine)), 5_000, "the copy of ours");
      expect(fromUs.match(/^Via: /gm)?.length).toBe(2);
      expect(withoutTopVia(fromUs).replaceAll(callIdOf(mine), callIdOf(theirs))).toBe(withoutTopVia(fromKamailio));
      expect(/Via: (SIP\/2.0\/UDP [^;]*);branch=z9hG4bK[0-9a-f]+\.\d+\r\n/.exec(fromUs)?.[1]).toBe(
        "SIP/2.0/UDP 127.0.0.21:5480",
      );
    },
    TEST_MS,
  );

  describeWhere(captureProblem(), "counted on the wire", () => {
    test(
      "a REGISTER to us is saved by both Kamailio registrars, and no copy is copied again",
      async () => {
        const capture = await Capture.start([PORT, 5480]);
        try {
          const text = register("dora", { to: "127.0.0.21", phone: phone.address });
          expect(await phone.ask(text, { ip: "127.0.0.21", port: 5480 })).toStartWith("SIP/2.0 202 ");
          for (const node of lab.nodes) {
            const saved = async (): Promise<boolean> =>
              (await node.cmd("ul.dump")).includes(`sip:dora@${phone.address}`);
            await until(saved, 8_000, `${node.uri} has the contact`);
          }
          await until(
            () => seen.some((one) => one.request.headers.get("Call-ID") === callIdOf(text)),
            5_000,
            "third copy",
          );
          // What would go round goes round within a round trip; the pings of the next seconds show that time has passed.
          await Bun.sleep(1_000);
          const requests = capture
            .datagrams()
            .filter((one) => one.text.startsWith("REGISTER ") && one.text.includes(callIdOf(text)));
          expect(requests.map(({ from, to }) => `${from.split(":")[0]} > ${to}`).sort()).toEqual([
            `127.0.0.1 > 127.0.0.21:5480`,
            `127.0.0.21 > 127.0.0.11:${PORT}`,
            `127.0.0.21 > 127.0.0.12:${PORT}`,
            `127.0.0.21 > 127.0.0.22:5480`,
          ]);
        } finally {
          await capture.stop();
        }
        expect((await ours.status()).counters).toMatchObject({ replicasSent: 6, loopsPrevented: 0 });
      },
      TEST_MS,
    );
  });

  test(
    "what a node sends us is answered and goes no further",
    async () => {
      const [first] = lab.nodes as [KamailioNode];
      const before = (await ours.status()).counters.replicasSent;
      const neighbour = await Phone.at(first.ip);
      const text = register("emil", { to: "127.0.0.21", phone: neighbour.address });
      expect(await neighbour.ask(text, { ip: "127.0.0.21", port: 5480 })).toStartWith("SIP/2.0 202 ");
      neighbour.end();
      expect((await ours.status()).counters.replicasSent).toBe(before as number);
    },
    TEST_MS,
  );

  test(
    "`dmq replicate` reads a file with plain line ends, and says how each node answered",
    async () => {
      const text = register("frida", { to: "127.0.0.21", phone: phone.address }).replace(/Via: [^\r]*\r\n/, "");
      const done = await ours.run(["replicate", "--plain"], new TextEncoder().encode(text.replaceAll("\r\n", "\n")));
      expect([done.code, done.stderr]).toEqual([0, ""]);
      expect(
        done.stdout
          .trim()
          .split("\n")
          .map((row) => row.split("\t").slice(0, 2))
          .sort(),
      ).toEqual([
        ["sip:127.0.0.11:5490", "200"],
        ["sip:127.0.0.12:5490", "200"],
        ["sip:127.0.0.22:5480", "200"],
      ]);
      for (const node of lab.nodes) {
        const saved = async (): Promise<boolean> => (await node.cmd("ul.dump")).includes(`sip:frida@${phone.address}`);
        await until(saved, 8_000, `${node.uri} has the contact`);
      }
    },
    TEST_MS,
  );

  test("both Kamailio are healthy in the end", () => expectHealthy(lab.nodes), TEST_MS);
});
