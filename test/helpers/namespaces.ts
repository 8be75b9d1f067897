/**
 * Machines on one wire: network namespaces, joined by a bridge in one of their own, so that several nodes can listen on
 * 0.0.0.0 with the same port. Made by the test, gone with it; nothing of the machine's own network is touched.
 */
import { missingPrograms, type Refused } from "./needs.ts";
import { type Finished, finished } from "./process.ts";
import { until } from "./wait.ts";

/** @returns what is missing for namespaces, `undefined` if nothing is */
export function namespaceProblem(): string | Refused | undefined {
  const missing = missingPrograms("ip", "unshare", "mount");
  if (missing !== undefined) return missing;
  if (process.getuid?.() !== 0) return { refused: "network namespaces need root" };
  const probe = Bun.spawnSync(["unshare", "-n", "-m", "ip", "link", "add", "dmqp0", "type", "bridge"]);
  const why = probe.stderr.toString().trim();
  return probe.success ? undefined : { refused: `no network namespace can be made: ${why}` };
}

function ip(...args: string[]): void {
  const done = Bun.spawnSync(["ip", ...args]);
  if (!done.success) throw new Error(`ip ${args.join(" ")}: ${done.stderr.toString().trim()}`);
}

/** What goes on in one of the machines, as a process of ours. */
export interface Inside {
  readonly child: Bun.Subprocess<"ignore", "pipe", "pipe">;
  /** stdout and stderr so far. */
  log(): string;
}

export class Namespaces {
  /** Distinguishes what two test processes of one machine make. */
  readonly #tag = `dmq${process.pid.toString(36)}`;
  readonly #hosts = new Map<string, string>();
  /** The bridge's end of each machine's cable. */
  readonly #ports = new Map<string, string>();
  readonly #children: Bun.Subprocess[] = [];

  constructor() {
    ip("netns", "add", this.#tag);
    ip("-n", this.#tag, "link", "add", "br0", "type", "bridge");
    ip("-n", this.#tag, "link", "set", "br0", "up");
  }

  /** A machine with this address and its own loopback. */
  add(name: string, address: string): void {
    const namespace = `${this.#tag}-${name}`;
    ip("netns", "add", namespace);
    this.#hosts.set(name, namespace);
    const port = `p${this.#hosts.size}`;
    this.#ports.set(name, port);
    ip("-n", this.#tag, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace);
    ip("-n", this.#tag, "link", "set", port, "master", "br0", "up");
    ip("-n", namespace, "address", "add", `${address}/24`, "dev", "eth0");
    ip("-n", namespace, "link", "set", "eth0", "up");
    ip("-n", namespace, "link", "set", "lo", "up");
  }

  /** Pulls a machine's cable out of the bridge, or puts it back. */
  plug(name: string, isIn: boolean): void {
    ip("-n", this.#tag, "link", "set", this.#ports.get(name) as string, isIn ? "up" : "down");
  }

  /**
   * Starts a process in a machine.
   *
   * @param resolvConf  a file that stands at /etc/resolv.conf for this process alone
   */
  spawn(
    name: string,
    argv: readonly string[],
    options: { resolvConf?: string; env?: Record<string, string> } = {},
  ): Inside {
    const { resolvConf } = options;
    const command = resolvConf === undefined ? [...argv] : [...withResolvConf(resolvConf), ...argv];
    const child = Bun.spawn(["ip", "netns", "exec", this.#namespace(name), ...command], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
      env: { ...process.env, ...options.env },
    });
    this.#children.push(child);
    let log = "";
    const collect = async (stream: ReadableStream<Uint8Array>): Promise<void> => {
      const decoder = new TextDecoder();
      for await (const chunk of stream) log += decoder.decode(chunk, { stream: true });
    };
    void collect(child.stdout);
    void collect(child.stderr);
    return { child, log: () => log };
  }

  /** Runs a command in a machine to its end. */
  async run(name: string, argv: readonly string[]): Promise<Finished> {
    const child = Bun.spawn(["ip", "netns", "exec", this.#namespace(name), ...argv], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
      timeout: 20_000,
    });
    return finished(child);
  }

  /** Ends what still runs, by process, and takes the machines away. */
  async end(): Promise<void> {
    for (const child of this.#children) if (child.exitCode === null) child.kill("SIGTERM");
    const over = (): boolean => this.#children.every((child) => child.exitCode !== null || child.signalCode !== null);
    await until(over, 5_000, "the machines' processes end").catch(() => {
      for (const child of this.#children) child.kill("SIGKILL");
    });
    for (const namespace of [...this.#hosts.values(), this.#tag]) ip("netns", "del", namespace);
  }

  #namespace(name: string): string {
    const namespace = this.#hosts.get(name);
    if (namespace === undefined) throw new Error(`there is no machine ${name}`);
    return namespace;
  }
}

/** In a mount namespace of its own, so that the machine's file stays what it is. */
function withResolvConf(file: string): string[] {
  const script = 'mount --make-rprivate / && mount --bind "$1" /etc/resolv.conf && shift && exec "$@"';
  return ["unshare", "-m", "sh", "-c", script, "sh", file];
}
