/**
 * Real RabbitMQ brokers on loopback, from the scripts beside the repository (`../shared/rabbitmq`, or where DMQ_RABBITMQ_LAB points).
 *
 * Where the broker or the scripts are missing, tests are skipped with the reason in their name; with DMQ_REQUIRE_INTEROP=1 the
 * same reason is a failure.
 *
 * The start of a broker costs some seconds of processor time. With DMQ_BROKERS=FOLDER the files of one run share them, one after the
 * other: each finds them running and empty.
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describeWhere, missingPrograms } from "./needs.ts";
import { runScript } from "./process.ts";

const LAB = process.env.DMQ_RABBITMQ_LAB ?? join(import.meta.dir, "..", "..", "..", "shared", "rabbitmq");

const SHARED = process.env.DMQ_BROKERS;

/** A broker takes 2 s to start on an idle machine. */
export const BROKER_START_MS = 90_000;

/** @returns what is missing, `undefined` if nothing is */
export function brokerProblem(): string | undefined {
  if (!existsSync(join(LAB, "up.sh"))) return "the RabbitMQ scripts are not beside the repository";
  return missingPrograms("bash", "rabbitmq-server", "erl", "setsid", "openssl");
}

/** `describe` that is skipped with its reason, or fails where everything is required. */
export function describeBroker(name: string, body: () => void, problem = brokerProblem()): void {
  describeWhere(problem, name, body);
}

function run(words: readonly string[]): Promise<string> {
  return runScript(words, { timeoutMs: BROKER_START_MS });
}

export type BrokerName = "a" | "b";

export interface BrokersOptions {
  /** Default 1; two are independent of each other. */
  nodes?: 1 | 2;
  /** Two that form one cluster. */
  cluster?: boolean;
  /** They listen for TLS too, and `a` takes a client certificate for a login. */
  tls?: boolean;
}

const LOGIN_BY_CERTIFICATE = [
  "auth_mechanisms.1 = PLAIN",
  "auth_mechanisms.2 = EXTERNAL",
  "ssl_cert_login_from = common_name",
];

/** In Erlang, for `rabbitmqctl eval`: the virtual host `/` with all that is in it is deleted and made anew. */
const EMPTY = `
  rabbit_vhost:delete(<<"/">>, <<"test">>), rabbit_vhost:add(<<"/">>, <<"test">>),
  rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"/">>, <<".*">>, <<".*">>, <<".*">>, <<"test">>).`;

/** The path that `ctl` calls: beside it are the other commands of the same installation. */
async function serverScript(ctl: string): Promise<string> {
  return /exec '([^']+)'/.exec(await Bun.file(ctl).text())?.[1] ?? "";
}

/** One or two running brokers and their directory. */
export class Brokers {
  readonly dir: string;
  private readonly stopped = new Set<BrokerName>();
  private values = new Map<string, string>();

  constructor(dir: string) {
    this.dir = dir;
    this.read();
  }

  /** `amqp://guest:guest@127.0.0.1:PORT` */
  url(name: BrokerName = "a"): string {
    return this.value(`AMQP_URL_${name.toUpperCase()}`);
  }

  /** `amqps://guest:guest@localhost:PORT`, with `tls`. */
  tlsUrl(name: BrokerName = "a"): string {
    return this.value(`AMQPS_URL_${name.toUpperCase()}`);
  }

  /** PEM texts, and where they are: the authority, and a client certificate for the name `guest`. */
  get tls(): { ca: string; cert: string; key: string; caFile: string; certFile: string; keyFile: string } {
    const [caFile, certFile, keyFile] = ["CA", "CERT", "KEY"].map((name) => this.value(`AMQP_TLS_${name}`)) as [
      ...[string, string, string],
    ];
    const [ca, cert, key] = [caFile, certFile, keyFile].map((path) => readFileSync(path, "utf8")) as [
      ...[string, string, string],
    ];
    return { ca, cert, key, caFile, certFile, keyFile };
  }

  pid(name: BrokerName = "a"): number {
    return Number(this.value(`AMQP_PID_${name.toUpperCase()}`));
  }

  /** `rabbitmqctl` of this broker. */
  ctl(name: BrokerName, ...words: string[]): Promise<string> {
    return run([join(this.dir, name, "ctl"), ...words]);
  }

  /** No queue, exchange, message or policy is left. */
  async empty(name: BrokerName): Promise<void> {
    await this.ctl(name, "eval", EMPTY);
  }

  /** Loads a plugin into the running broker, if it is not there. */
  async enable(name: BrokerName, plugin: string): Promise<void> {
    const script = `. "${join(this.dir, name, "env")}"; exec "$(dirname "$1")/rabbitmq-plugins" -q enable "$2"`;
    await run(["-c", script, "bash", await serverScript(join(this.dir, name, "ctl")), plugin]);
  }

  /** SIGKILL. */
  kill(name: BrokerName): void {
    process.kill(this.pid(name), "SIGKILL");
  }

  /** SIGSTOP: sockets stay, nothing answers. */
  freeze(name: BrokerName): void {
    process.kill(this.pid(name), "SIGSTOP");
  }

  thaw(name: BrokerName): void {
    process.kill(this.pid(name), "SIGCONT");
  }

  /** In good order: clients are told 320, and its port refuses. The process stays, so that the next start is short. */
  async stop(name: BrokerName): Promise<void> {
    await this.ctl(name, "stop_app");
    this.stopped.add(name);
  }

  /** Again, with the same port and data, after `kill` or `stop`. */
  async start(name: BrokerName): Promise<void> {
    if (this.stopped.delete(name)) {
      await this.ctl(name, "start_app");
    } else {
      await run([join(LAB, "up.sh"), this.dir, "--only", name, "--timeout", String(BROKER_START_MS / 1_000)]);
      this.read();
    }
  }

  /** Blocks publishers, as a broker without memory does, or frees them. */
  async block(name: BrokerName, blocked: boolean): Promise<void> {
    await this.ctl(name, "set_vm_memory_high_watermark", "absolute", blocked ? "1MB" : "1GB");
  }

  /** All connections that the broker lists, by the name that clients gave. */
  async connections(name: BrokerName = "a"): Promise<string[]> {
    const text = await this.ctl(name, "list_connections", "client_properties");
    return [...text.matchAll(/"connection_name","([^"]*)"/g)].map((match) => match[1] as string);
  }

  /** The queue has no message, acknowledged or not. */
  async isDrained(queue: string): Promise<boolean> {
    const rows = await this.ctl("a", "list_queues", "name", "messages");
    return rows.split("\n").includes(`${queue}\t0`);
  }

  /** Those that are shared go on. */
  async down(): Promise<void> {
    for (const name of ["a", "b"] as const) {
      // A frozen one would not end.
      const pid = Number(this.values.get(`AMQP_PID_${name.toUpperCase()}`) ?? "");
      if (pid > 0 && existsSync(`/proc/${pid}`)) process.kill(pid, "SIGCONT");
    }
    if (SHARED === undefined) await end(this.dir);
  }

  private value(name: string): string {
    const value = this.values.get(name);
    if (value === undefined || value === "") throw new Error(`${this.dir}/env has no ${name}`);
    return value;
  }

  private read(): void {
    const text = readFileSync(join(this.dir, "env"), "utf8");
    this.values = new Map(
      [...text.matchAll(/^(\w+)=(.*)$/gm)].map((match) => [match[1] as string, match[2] as string]),
    );
  }
}

async function end(dir: string): Promise<void> {
  await run([join(LAB, "down.sh"), dir, "--kill", "--purge"]);
  rmSync(dir, { recursive: true, force: true });
}

/** Starts brokers in a new directory, or takes the shared ones; `down()` in `afterAll` or `finally`. */
export async function startBrokers(options: BrokersOptions = {}): Promise<Brokers> {
  const { nodes = 1, cluster = false } = options;
  const tls = options.tls === true || (SHARED !== undefined && !cluster);
  const dir = SHARED === undefined ? mkdtempSync(join(tmpdir(), "dr-")) : join(SHARED, cluster ? "c" : "p");
  const isThere = SHARED !== undefined && existsSync(dir);
  mkdirSync(dir, { recursive: true });
  if (tls) writeFileSync(join(dir, "extra.conf"), `${LOGIN_BY_CERTIFICATE.join("\n")}\n`);
  const words = ["--nodes", String(nodes), "--timeout", String(BROKER_START_MS / 1_000)];
  if (cluster) words.push("--cluster");
  if (tls) words.push("--tls");
  try {
    // One that runs stays as it is.
    await run([join(LAB, "up.sh"), dir, ...words]);
    const brokers = new Brokers(dir);
    const all = isThere ? (["a", "b"] as const).slice(0, cluster ? 1 : nodes) : [];
    await Promise.all(all.map((name) => brokers.empty(name)));
    if (options.tls === true) await brokers.enable("a", "rabbitmq_auth_mechanism_ssl");
    return brokers;
  } catch (error) {
    await end(dir).catch(() => undefined);
    throw error;
  }
}

/** Ends what a run shared. */
export async function endBrokers(folder: string): Promise<void> {
  for (const name of readdirSync(folder)) await end(join(folder, name));
  rmSync(folder, { recursive: true });
}
