/**
 * A real DNS server for tests: dnsmasq on a loopback port, with records of the test's own and nothing of the machine's.
 *
 * Where dnsmasq is missing the tests are skipped with the reason in their name; with DMQ_REQUIRE_INTEROP=1 that is a failure.
 */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describeWhere } from "./needs.ts";
import { until } from "./wait.ts";

const DNSMASQ = Bun.which("dnsmasq") ?? ["/usr/sbin/dnsmasq", "/usr/local/sbin/dnsmasq"].find(existsSync);

/** @returns what is missing, `undefined` if nothing is */
export function dnsProblem(): string | undefined {
  return DNSMASQ === undefined ? "dnsmasq is not installed (Debian: dnsmasq-base)" : undefined;
}

/** `describe` that is skipped with its reason, or fails where interop is required. */
export function describeDns(name: string, body: () => void): void {
  describeWhere(dnsProblem(), name, body);
}

export interface Zone {
  /** Addresses of each name, IPv4 and IPv6. */
  readonly hosts: Readonly<Record<string, readonly string[]>>;
  /** Targets and ports of each SRV name. */
  readonly services?: Readonly<Record<string, readonly { target: string; port: number }[]>>;
  /** Name and what it is an alias of, which must be in `hosts`. */
  readonly aliases?: Readonly<Record<string, string>>;
}

/** A port of 127.0.0.1 that nobody has, over UDP and TCP. */
async function freePort(): Promise<number> {
  const tcp = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const { port } = tcp;
  tcp.stop(true);
  const udp = await Bun.udpSocket({ hostname: "127.0.0.1", port });
  udp.close();
  return port;
}

export class DnsServer {
  readonly port: number;
  readonly #dir: string;
  readonly #ttlSeconds: number;
  #zone: Zone;
  #child: Bun.Subprocess<"ignore", "ignore", "pipe"> | undefined;
  #log = "";

  private constructor(port: number, zone: Zone, ttlSeconds: number) {
    this.port = port;
    this.#zone = zone;
    this.#ttlSeconds = ttlSeconds;
    this.#dir = mkdtempSync(join(tmpdir(), "dns-"));
  }

  /** @returns once it answers; all its records have this TTL */
  static async start(zone: Zone, ttlSeconds: number): Promise<DnsServer> {
    const server = new DnsServer(await freePort(), zone, ttlSeconds);
    await server.start();
    return server;
  }

  /** As `--dns-server` takes it. */
  get address(): string {
    return `127.0.0.1:${this.port}`;
  }

  /** Starts it again on the same port, with the records it had. */
  async start(): Promise<void> {
    this.#write();
    this.#log = "";
    const options = ["--no-daemon", `--conf-file=${join(this.#dir, "conf")}`, `--port=${this.port}`, "--user="];
    const child = Bun.spawn([DNSMASQ as string, ...options], { stdin: "ignore", stdout: "ignore", stderr: "pipe" });
    this.#child = child;
    void this.#drain(child.stderr);
    const isUp = (): boolean => this.#log.includes("started, version") || child.exitCode !== null;
    await until(isUp, 5_000, "dnsmasq starts");
    if (child.exitCode !== null) throw new Error(`dnsmasq ended with ${child.exitCode}: ${this.#log}`);
  }

  /** Other addresses; the server goes on running. */
  setHosts(hosts: Zone["hosts"]): void {
    this.#zone = { ...this.#zone, hosts };
    this.#write();
    this.#child?.kill("SIGHUP");
  }

  /** All records anew; the server is started again. */
  async setZone(zone: Zone): Promise<void> {
    await this.stop();
    this.#zone = zone;
    await this.start();
  }

  async stop(): Promise<void> {
    this.#child?.kill("SIGKILL");
    await this.#child?.exited;
    this.#child = undefined;
  }

  /** Ends it and removes its files. */
  async end(): Promise<void> {
    await this.stop();
    rmSync(this.#dir, { recursive: true, force: true });
  }

  /** How often it was asked since its last start, for example `A a.example.test`. */
  asked(question: string): number {
    const [type, name] = question.split(" ");
    return this.#log.split(`query[${type}] ${name} from`).length - 1;
  }

  #write(): void {
    const { hosts, services = {}, aliases = {} } = this.#zone;
    const lines = Object.entries(hosts).flatMap(([name, ips]) => ips.map((ip) => `${ip} ${name}`));
    writeFileSync(join(this.#dir, "hosts"), `${lines.join("\n")}\n`);
    const conf = ["no-resolv", "no-hosts", "listen-address=127.0.0.1", "bind-interfaces", "log-queries", "pid-file"];
    conf.push(`addn-hosts=${join(this.#dir, "hosts")}`, `local-ttl=${this.#ttlSeconds}`, "local=/test/");
    for (const [name, targets] of Object.entries(services))
      for (const { target, port } of targets) conf.push(`srv-host=${name},${target},${port}`);
    for (const [alias, name] of Object.entries(aliases)) conf.push(`cname=${alias},${name}`);
    writeFileSync(join(this.#dir, "conf"), `${conf.join("\n")}\n`);
  }

  async #drain(stderr: ReadableStream<Uint8Array>): Promise<void> {
    const decoder = new TextDecoder();
    for await (const chunk of stderr) this.#log += decoder.decode(chunk, { stream: true });
  }
}

/** A server that does as a test says: for each question, over UDP or TCP, the octets of its answers. */
export interface OddDns {
  readonly address: string;
  /** Questions that came in. */
  readonly asked: { transport: "udp" | "tcp"; bytes: Buffer }[];
  close(): void;
}

export type OddAnswer = (question: Buffer, transport: "udp" | "tcp") => readonly Uint8Array[];

/** @param answer  gives nothing at all for silence */
export async function oddDns(answer: OddAnswer, place?: { hostname: string; port: number }): Promise<OddDns> {
  const hostname = place?.hostname ?? "127.0.0.1";
  const port = place?.port ?? (await freePort());
  const asked: OddDns["asked"] = [];
  const udp = await Bun.udpSocket({
    hostname,
    port,
    socket: {
      data(socket, bytes, from, ip) {
        asked.push({ transport: "udp", bytes });
        for (const one of answer(bytes, "udp")) socket.send(one, from, ip);
      },
      error() {
        // The asker has closed its socket: that is its right.
      },
    },
  });
  const tcp = Bun.listen({
    hostname,
    port,
    socket: {
      data(socket, bytes) {
        const question = bytes.subarray(2);
        asked.push({ transport: "tcp", bytes: question });
        for (const one of answer(question, "tcp")) {
          socket.write(Uint8Array.of(one.length >> 8, one.length & 255));
          socket.write(one);
        }
      },
    },
  });
  return {
    address: `${hostname}:${port}`,
    asked,
    close() {
      udp.close();
      tcp.stop(true);
    },
  };
}
