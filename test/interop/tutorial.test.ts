/**
 * docs/TUTORIAL.md, word for word: two Kamailios that listen on 0.0.0.0 and find each other by one DNS name, as the
 * well-known tutorial has it, and a node of ours on their bus. Each on a machine (network namespace) of its own.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { dmq, EXECUTABLE, jsonRows, type ListRow } from "../helpers/daemon.ts";
import { labProblem } from "../helpers/kamailio.ts";
import { type Inside, Namespaces, namespaceProblem } from "../helpers/namespaces.ts";
import { describeWhere, missingPrograms, type Refused } from "../helpers/needs.ts";
import { until } from "../helpers/wait.ts";

const SETUP_MS = 60_000;
const TEST_MS = 60_000;

const NAME = "dmq.example.org";
const KAMAILIOS = { k1: "10.77.0.1", k2: "10.77.0.2" } as const;
const OURS = "10.77.0.3";
const DEAD = "10.77.0.9";
const DNS = "10.77.0.53";

const PAGE = readFileSync(join(import.meta.dir, "..", "..", "docs", "TUTORIAL.md"), "utf8");

/** The first block of the page with this fence that has all of these words in it. */
function block(fence: string, ...words: string[]): string {
  const blocks = [...PAGE.matchAll(new RegExp(`\`\`\`${fence}\n([\\s\\S]*?)\`\`\``, "g"))].map(
    (found) => found[1] as string,
  );
  const found = blocks.find((text) => words.every((word) => text.includes(word)));
  if (found === undefined) throw new Error(`docs/TUTORIAL.md has no block with ${words.join(", ")}`);
  return found;
}

function problem(): string | Refused | undefined {
  return labProblem() ?? missingPrograms("dnsmasq", "sipsak") ?? namespaceProblem();
}

describeWhere(problem(), "the tutorial", () => {
  let dir: string;
  let net: Namespaces;
  let dns: Inside;
  let ours: Inside;

  function startDns(addresses: readonly string[]): void {
    const records = addresses.flatMap((address) => ["--host-record", `${NAME},${address}`]);
    const options = [
      "--keep-in-foreground",
      "--conf-file=/dev/null",
      "--no-resolv",
      "--no-hosts",
      "--local-ttl=1",
      "--local=/example.org/",
    ];
    dns = net.spawn("dns", ["dnsmasq", ...options, "--pid-file=", "--user=root", "--listen-address", DNS, ...records]);
  }

  function startKamailio(name: keyof typeof KAMAILIOS): Inside {
    const home = join(dir, name);
    mkdirSync(home);
    // What the page leaves to the reader: where modules' sockets are, and pings that do not take a minute.
    const extra = [`modparam("ctl", "binrpc", "unix:${home}/ctl")`, 'modparam("dmq", "ping_interval", 5)'];
    const text = block("", "loadmodule", "request_route").replace(
      "request_route",
      `${extra.join("\n")}\nrequest_route`,
    );
    writeFileSync(join(home, "kamailio.cfg"), `#!KAMAILIO\n${text}`);
    const where = ["-f", join(home, "kamailio.cfg"), "-Y", home, "-w", home, "-P", join(home, "pid")];
    return net.spawn(name, ["kamailio", "-DD", "-E", ...where, "-m", "64", "-M", "16"], {
      resolvConf: join(dir, "resolv.conf"),
    });
  }

  /** A line of the page that begins with `dmq`, in our machine, with the socket of this test. */
  function pageCommand(...words: string[]): string[] {
    const line = block("sh", ...words)
      .replaceAll("\\\n", " ")
      .split("\n")
      .find((one) => words.every((word) => one.includes(word)));
    const [, ...args] = (line as string).trim().split(/\s+/);
    return args;
  }

  async function kamcmd(name: keyof typeof KAMAILIOS, method: string): Promise<string> {
    const child = Bun.spawn(["kamcmd", "-s", `unix:${join(dir, name, "ctl")}`, method], {
      stdout: "pipe",
      stderr: "pipe",
    });
    return new Response(child.stdout).text();
  }

  async function list(): Promise<ListRow[]> {
    return jsonRows<ListRow>((await dmq(["list", "--json"], { env: { DMQ_SOCKET: join(dir, "s") } })).stdout);
  }

  async function activeUris(): Promise<string[]> {
    return (await list())
      .filter(({ status, local }) => status === "active" && local === 0)
      .map(({ uri }) => uri)
      .sort();
  }

  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), "tu-"));
    writeFileSync(join(dir, "resolv.conf"), `nameserver ${DNS}\n`);
    net = new Namespaces();
    for (const [name, address] of Object.entries({ ...KAMAILIOS, ours: OURS, dns: DNS, phone: "10.77.0.100" }))
      net.add(name, address);
    startDns([KAMAILIOS.k1, KAMAILIOS.k2, OURS, DEAD]);
    for (const name of ["k1", "k2"] as const) {
      const node = startKamailio(name);
      await until(() => existsSync(join(dir, name, "ctl")), 10_000, `${name} is up: ${node.log()}`);
    }
    ours = net.spawn(
      "ours",
      [EXECUTABLE, ...pageCommand("serve", "--multi-notify"), "--ping-interval", "5s", "--no-snapshot"],
      {
        resolvConf: join(dir, "resolv.conf"),
        env: { DMQ_SOCKET: join(dir, "s") },
      },
    );
    await until(() => existsSync(join(dir, "s")), 10_000, `our node is up: ${ours.log()}`);
  }, SETUP_MS);

  afterAll(async () => {
    await net?.end();
    if (dir !== undefined) rmSync(dir, { recursive: true, force: true });
  }, SETUP_MS);

  test(
    "all three are active for each other, the address that nobody has is not",
    async () => {
      const uris = Object.values(KAMAILIOS).map((address) => `sip:${address}:5090`);
      const met = async (): Promise<boolean> => (await activeUris()).join() === uris.join();
      await until(met, 20_000, "our node has both").catch(async (cause) => {
        throw new Error(`${cause}; it lists ${JSON.stringify(await list())}; ${ours.log()}`);
      });
      for (const name of ["k1", "k2"] as const) {
        const others = [OURS, ...Object.values(KAMAILIOS)].filter((address) => address !== KAMAILIOS[name]);
        const knows = async (): Promise<boolean> => {
          const blocks = (await kamcmd(name, "dmq.list_nodes")).split("}");
          return others.every((address) =>
            blocks.some((one) => one.includes(`host: ${address}\n`) && one.includes("active")),
          );
        };
        await until(knows, 20_000, `${name} has the two others`);
      }
      expect((await list()).filter(({ uri }) => uri.includes(DEAD)).every(({ status }) => status !== "active")).toBe(
        true,
      );
      expect((await list()).some(({ uri }) => uri.includes("0.0.0.0"))).toBe(false);
    },
    TEST_MS,
  );

  test(
    "a registration at one Kamailio is at the other, with our node on the bus",
    async () => {
      const file = join(dir, "register.sip");
      const lines = [
        "REGISTER sip:10.77.0.1 SIP/2.0",
        "Via: SIP/2.0/UDP 10.77.0.100:5066;rport;branch=z9hG4bKtutorial",
        "From: <sip:nick@10.77.0.1>;tag=1",
        "To: <sip:nick@10.77.0.1>",
        "Call-ID: tutorial",
        "CSeq: 1 REGISTER",
        "Max-Forwards: 70",
        "Contact: <sip:nick@10.77.0.100:5066>",
        "Expires: 300",
        "Content-Length: 0",
      ];
      writeFileSync(file, `${lines.join("\r\n")}\r\n\r\n`);
      const sent = await net.run("phone", ["sipsak", "-f", file, "-s", `sip:nick@${KAMAILIOS.k1}:5060`]);
      expect([sent.code, sent.stderr]).toEqual([0, ""]);
      for (const name of ["k1", "k2"] as const) {
        const saved = async (): Promise<boolean> =>
          (await kamcmd(name, "ul.dump")).includes("sip:nick@10.77.0.100:5066");
        await until(saved, 8_000, `${name} has the contact`);
      }
    },
    TEST_MS,
  );

  test(
    "what our node broadcasts reaches both, and says how each answered",
    async () => {
      const { code, stdout } = await dmq(pageCommand("bcast"), { env: { DMQ_SOCKET: join(dir, "s") } });
      // A Kamailio without a script for the channel says 404, which is an answer all the same.
      expect([
        code,
        stdout
          .trim()
          .split("\n")
          .map((row) => row.split("\t").slice(0, 2).join(" "))
          .sort(),
      ]).toEqual([3, ["sip:10.77.0.1:5090 404", "sip:10.77.0.2:5090 404"]]);
    },
    TEST_MS,
  );

  test(
    "the name loses an address: that node may go, and the other one stays",
    async () => {
      dns.child.kill("SIGTERM");
      await dns.child.exited;
      expect((await activeUris()).length).toBe(2);
      startDns([KAMAILIOS.k1, OURS]);
      const gone = async (): Promise<boolean> => !(await list()).some(({ uri }) => uri.includes(DEAD));
      await until(gone, 40_000, "the dead address is forgotten");
      expect((await activeUris()).length).toBe(2);
    },
    TEST_MS,
  );
});
