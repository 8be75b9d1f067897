/**
 * Real Kamailio nodes, from the lab beside the repository (`../shared/kamailio`, or where DMQ_KAMAILIO_LAB points).
 *
 * Where Kamailio or the lab is missing, interop is skipped with the reason in the test's name; with
 * DMQ_REQUIRE_INTEROP=1 the same reason is a failure.
 */
import { createHash } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describeWhere, missingPrograms } from "./needs.ts";
import { runScript } from "./process.ts";
import { until } from "./wait.ts";

const LAB = process.env.DMQ_KAMAILIO_LAB ?? join(import.meta.dir, "..", "..", "..", "shared", "kamailio");

const NEEDED = ["bash", "kamailio", "kamcmd", "curl", "jq", "setsid"];

/** @returns what is missing for interop, `undefined` if nothing is */
export function labProblem(): string | undefined {
  if (!existsSync(join(LAB, "up.sh"))) return "the Kamailio lab is not beside the repository";
  return missingPrograms(...NEEDED);
}

/** @returns what is missing for interop over TLS: the module has a Debian package of its own */
export function tlsLabProblem(): string | undefined {
  const problem = labProblem();
  if (problem !== undefined) return problem;
  const found = [...new Bun.Glob("**/kamailio/modules/tls.so").scanSync({ cwd: "/usr/lib" })];
  return found.length > 0 ? undefined : "Kamailio's tls module is not installed (kamailio-tls-modules)";
}

/** `describe` that is skipped with its reason, or fails where interop is required. */
export function describeInterop(name: string, body: () => void, problem = labProblem()): void {
  describeWhere(problem, name, body);
}

/** A node as Kamailio lists it. */
export interface KamailioRow {
  host: string;
  port: string | null;
  proto: string;
  resolved_ip: string;
  status: string;
  local: number;
}

function script(args: readonly string[], env: Record<string, string> = {}): Promise<string> {
  return runScript(args, { timeoutMs: 60_000, env });
}

function md5(text: string | Uint8Array): string {
  return createHash("md5").update(text).digest("hex");
}

/** One Kamailio of a lab. */
export class KamailioNode {
  /** As it stands in lists. */
  readonly uri: string;
  /** Address without brackets. */
  readonly ip: string;
  readonly port: number;
  /** Path of the socket of its ctl module. */
  readonly ctl: string;
  /** Path of the FIFO of its jsonrpcs module. */
  readonly fifo: string;
  readonly #dir: string;
  readonly #index: number;
  readonly #http: string;

  constructor(dir: string, index: number, info: Map<string, string>) {
    this.#dir = dir;
    this.#index = index;
    this.uri = info.get("ADDR") as string;
    this.ip = (info.get("IP") as string).replace(/[[\]]/g, "");
    this.port = Number(info.get("PORT"));
    this.ctl = (info.get("CTL") as string).replace(/^unix:/, "");
    this.fifo = info.get("FIFO") as string;
    this.#http = info.get("HTTP") as string;
  }

  #node(...args: string[]): Promise<string> {
    return script([join(LAB, "node.sh"), this.#dir, String(this.#index), ...args]);
  }

  get log(): string {
    return readFileSync(join(this.#dir, `n${this.#index}`, "log"), "utf8");
  }

  /** `dmq.list_nodes` over JSON-RPC. */
  async list(): Promise<KamailioRow[]> {
    const answer = JSON.parse(await this.#node("rpc", "dmq.list_nodes")) as { result?: KamailioRow[] | KamailioRow };
    return [answer.result ?? []].flat();
  }

  /** Whether it has the nodes at all of these addresses as active. */
  async hasActive(...hosts: readonly string[]): Promise<boolean> {
    const rows = await this.list();
    return hosts.every((host) => rows.some((row) => row.host === host && row.status === "active"));
  }

  /** @returns the status line of the answer to a REGISTER of `user` */
  async register(user: string, headers: readonly string[] = []): Promise<string> {
    const id = `${user}-${performance.now()}`;
    const request = [
      `REGISTER sip:${hostPort(this.ip, this.port)} SIP/2.0`,
      `Via: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bK${id};rport`,
      "Max-Forwards: 70",
      `From: <sip:${user}@127.0.0.1>;tag=${id}`,
      `To: <sip:${user}@127.0.0.1>`,
      `Call-ID: ${id}`,
      "CSeq: 1 REGISTER",
      `Contact: <sip:${user}@127.0.0.1:5099>`,
      "Expires: 300",
      ...headers,
      "Content-Length: 0",
      "",
      "",
    ].join("\r\n");
    return (await askUdp(this.ip, this.port, request, 3_000)).split("\r\n")[0] as string;
  }

  /** A method by kamcmd, its output as text. */
  cmd(method: string, ...args: string[]): Promise<string> {
    return this.#node("cmd", method, ...args);
  }

  start(): Promise<string> {
    return this.#node("start");
  }

  kill9(): Promise<string> {
    return this.#node("kill9");
  }

  /** The process group that all of its processes are in. */
  async group(): Promise<number> {
    return Number(/^PID='?(\d+)/m.exec(await this.#node("info"))?.[1]);
  }

  /** A counter of `tm.stats`, for example `4xx` or `rpl_received`. */
  async counter(name: string): Promise<number> {
    const line = new RegExp(`^\\s*${name}: (\\d+)$`, "m").exec(await this.cmd("tm.stats"));
    if (line === null) throw new Error(`tm.stats has no ${name}`);
    return Number(line[1]);
  }

  async #post(path: string, headers: Record<string, string>, body: Uint8Array): Promise<number> {
    const response = await fetch(`${this.#http}${path}`, {
      method: "POST",
      headers: { ...headers, Connection: "close" },
      body,
      signal: AbortSignal.timeout(5_000),
    });
    await response.arrayBuffer();
    return response.status;
  }

  /** `dmq_bcast_message()`. @returns 200, or 500 where Kamailio says no */
  bcast(channel: string, body: Uint8Array, contentType = "text/plain"): Promise<number> {
    return this.#post("/bcast", { "X-Channel": channel, "Content-Type": contentType }, body);
  }

  /** `dmq_send_message()`. @returns 200, or 500 where the node is not in its list */
  send(channel: string, node: string, body: Uint8Array, contentType = "text/plain"): Promise<number> {
    return this.#post("/send", { "X-Channel": channel, "X-Node": node, "Content-Type": contentType }, body);
  }

  /** Bodies that came on a lab channel, in no order. An empty one leaves no file: see `arrivals`. */
  bodies(channel: string): Uint8Array[] {
    const folder = join(this.#dir, `n${this.#index}`, "rx");
    const files = readdirSync(folder).filter((name) => name.slice(0, -33) === channel);
    return files.map((name) => new Uint8Array(readFileSync(join(folder, name))));
  }

  /** The REGISTER with this Call-ID as it arrived, `undefined` if none did. */
  replica(callId: string): string | undefined {
    const file = join(this.#dir, `n${this.#index}`, "rx", `REGISTER-${md5(callId)}`);
    return existsSync(file) ? readFileSync(file, "latin1") : undefined;
  }

  /** What came on a lab channel, from the log; a retransmission shows as a second arrival. */
  arrivals(channel: string): { size: number; md5: string }[] {
    const line = /LAB rx channel=(\S+) len=(\d+) md5=([0-9a-f]*) /g;
    return [...this.log.matchAll(line)]
      .filter((match) => match[1] === channel)
      .map((match) => ({ size: Number(match[2]), md5: match[3] as string }));
  }

  hasReceived(channel: string, body: Uint8Array): boolean {
    return this.arrivals(channel).some(
      (one) => one.size === body.length && (body.length === 0 || one.md5 === md5(body)),
    );
  }

  /** An empty notification is answered with the node list and adds nobody; a stuck DMQ part does not answer. */
  async isHealthy(): Promise<boolean> {
    const request = kdmq({
      channel: "notification_peer",
      host: hostPort(this.ip, this.port),
      from: "sip:probe@127.0.0.1:9",
    });
    const answer = await askUdp(this.ip, this.port, request, 3_000);
    return answer.startsWith("SIP/2.0 200") && answer.includes(";status=active");
  }
}

export function hostPort(ip: string, port: number): string {
  return `${ip.includes(":") ? `[${ip}]` : ip}:${port}`;
}

let requests = 0;

/** A KDMQ request written by hand, with `rport` so that the answer comes back to whatever port it left from. */
export function kdmq(options: {
  channel: string;
  host: string;
  from: string;
  body?: string;
  headers?: string[];
}): string {
  const id = `${process.pid}-${++requests}-${performance.now()}`;
  const body = options.body ?? "";
  return [
    `KDMQ sip:${options.channel}@${options.host} SIP/2.0`,
    `Via: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bK${id};rport`,
    `To: <sip:${options.channel}@${options.host}>`,
    "Max-Forwards: 1",
    `Content-Length: ${Buffer.byteLength(body)}`,
    `From: <${options.from}>;tag=${id}`,
    "CSeq: 10 KDMQ",
    `Call-ID: ${id}`,
    ...(options.headers ?? []),
    "",
    body,
  ].join("\r\n");
}

/** Sends one datagram and gives back the first that comes in answer, as text. */
export async function askUdp(ip: string, port: number, request: string, ms: number): Promise<string> {
  const isV6 = ip.includes(":");
  const answered = Promise.withResolvers<string>();
  const socket = await Bun.udpSocket({
    hostname: isV6 ? "::1" : "127.0.0.1",
    socket: {
      data: (_, data) => answered.resolve(data.toString()),
      error: (_, error) => answered.reject(error),
    },
  });
  const timer = setTimeout(() => answered.reject(new Error(`no answer from ${hostPort(ip, port)} in ${ms} ms`)), ms);
  try {
    socket.send(request, port, ip);
    return await answered.promise;
  } finally {
    clearTimeout(timer);
    socket.close();
  }
}

/** Paths of PEM files for Kamailio's tls module, in both of its roles. */
export interface LabTls {
  cert: string;
  key: string;
  /** Verify the others by these authorities. */
  ca?: string;
  /** As a server, want a certificate of the client. */
  requireClientCert?: boolean;
  /** As a client, show no certificate. */
  anonymous?: boolean;
}

export interface LabOptions {
  nodes?: number;
  transport?: "udp" | "tcp" | "tls";
  /** With transport tls; without it the lab's own self-signed certificate is used and nothing is verified. */
  tls?: LabTls;
  /** As KAM_IP of the lab: `127.0.0.%d`, or one address for all. */
  ip?: string;
  port: number;
  /** A foreign node that every Kamailio has as its notification address. */
  seed?: string;
}

/** A directory with running Kamailio nodes. */
export class Lab {
  readonly nodes: KamailioNode[];
  readonly #dir: string;

  constructor(dir: string, nodes: KamailioNode[]) {
    this.#dir = dir;
    this.nodes = nodes;
  }

  /** A call through a node: dialog traffic on the bus. Throws if it did not complete. */
  async call(node: KamailioNode, seconds: number): Promise<void> {
    const child = Bun.spawn(["python3", join(LAB, "call.py"), `${node.ip}:${node.port}`, String(seconds)], {
      stdin: "ignore",
      stdout: "ignore",
      stderr: "pipe",
      timeout: 20_000,
    });
    const [stderr, code] = await Promise.all([new Response(child.stderr).text(), child.exited]);
    if (code !== 0) throw new Error(`the call ended with ${code}: ${stderr}`);
  }

  async down(): Promise<void> {
    await script([join(LAB, "down.sh"), this.#dir]);
    rmSync(this.#dir, { recursive: true, force: true });
  }
}

/**
 * The lab writes a configuration of the tls module that verifies nothing, just before it starts a node. This puts ours in its
 * place in the last moment.
 *
 * @returns what to start instead of Kamailio
 */
function writeTlsSetup(dir: string, { cert, key, ca, requireClientCert, anonymous }: LabTls): string {
  mkdirSync(join(dir, "tls"));
  copyFileSync(cert, join(dir, "tls", "cert.pem"));
  copyFileSync(key, join(dir, "tls", "key.pem"));
  const domains = ["server", "client"].map((role) => {
    const wants = role === "server" && requireClientCert === true;
    const verifies = ca !== undefined && (role === "client" || wants);
    const shows = role === "server" || anonymous !== true;
    return [
      `[${role}:default]`,
      "method = TLSv1.2+",
      ...(shows
        ? [`certificate = ${join(dir, "tls", "cert.pem")}`, `private_key = ${join(dir, "tls", "key.pem")}`]
        : []),
      `verify_certificate = ${verifies ? "yes" : "no"}`,
      `require_certificate = ${verifies ? "yes" : "no"}`,
      ...(ca === undefined ? [] : [`ca_list = ${ca}`]),
      "",
    ].join("\n");
  });
  const config = join(dir, "tls", "ours.cfg");
  writeFileSync(config, domains.join("\n"));
  const starter = join(dir, "kamailio.sh");
  const script = `#!/bin/sh\ncp ${config} ${join(dir, "tls", "tls.cfg")}\nexec kamailio "$@"\n`;
  writeFileSync(starter, script, { mode: 0o755 });
  return starter;
}

/** Starts a lab; without a seed it waits until its nodes list each other. */
export async function startLab(options: LabOptions): Promise<Lab> {
  const count = options.nodes ?? 2;
  const dir = mkdtempSync(join(tmpdir(), "dk-"));
  const env: Record<string, string> = {
    KAM_PING: "5",
    KAM_FR_TIMER: "2000",
    KAM_TRANSPORT: options.transport ?? "udp",
    KAM_IP: options.ip ?? "127.0.0.%d",
    KAM_PORT: String(options.port),
    ...(options.tls === undefined ? {} : { KAMAILIO: writeTlsSetup(dir, options.tls) }),
    ...(options.seed === undefined ? {} : { KAM_SEED: options.seed, KAM_SEED_ALL: "1", KAM_MESH_WAIT: "0" }),
  };
  try {
    await script([join(LAB, "up.sh"), dir, String(count)], env);
  } catch (error) {
    await script([join(LAB, "down.sh"), dir]);
    rmSync(dir, { recursive: true, force: true });
    throw error;
  }
  const nodes: KamailioNode[] = [];
  for (let index = 1; index <= count; index++) {
    const text = await script([join(LAB, "node.sh"), dir, String(index), "info"]);
    const info = [...text.matchAll(/^(\w+)='?([^'\n]*)'?$/gm)].map((match): [string, string] => [
      match[1] as string,
      match[2] as string,
    ]);
    nodes.push(new KamailioNode(dir, index, new Map(info)));
  }
  return new Lab(dir, nodes);
}

/** Until `node` answers an empty notification again; see "Is it still healthy?" of the lab. */
export async function expectHealthy(nodes: readonly KamailioNode[]): Promise<void> {
  for (const node of nodes) await until(() => node.isHealthy(), 8_000, `${node.uri} answers notifications`);
}
