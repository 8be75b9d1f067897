/** A supervisor's end of sd_notify(3): a unix datagram socket, which Bun cannot open, read by Python. */
import { join } from "node:path";
import { until } from "./wait.ts";

const READER = `
import json, os, socket, sys, time
name = sys.argv[1]
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind("\\0" + name[1:] if name[0] == "@" else name)
print(json.dumps({"at": time.monotonic_ns() // 1000, "text": "bound"}), flush=True)
while True:
    text = s.recv(65536).decode()
    print(json.dumps({"at": time.monotonic_ns() // 1000, "text": text}), flush=True)
`;

export interface Notification {
  /** CLOCK_MONOTONIC in microseconds, when it was read. */
  at: number;
  text: string;
}

export class Supervisor {
  readonly name: string;
  readonly received: Notification[] = [];
  readonly #child: Bun.Subprocess<"ignore", "pipe", "inherit">;

  constructor(name: string) {
    this.name = name;
    this.#child = Bun.spawn(["python3", "-c", READER, name], { stdin: "ignore", stdout: "pipe", stderr: "inherit" });
    void this.#read();
  }

  async #read(): Promise<void> {
    const decoder = new TextDecoder();
    let rest = "";
    for await (const chunk of this.#child.stdout) {
      const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
      rest = lines.pop() as string;
      this.received.push(...lines.map((line) => JSON.parse(line) as Notification));
    }
  }

  static async open(name: string): Promise<Supervisor> {
    const supervisor = new Supervisor(name);
    await until(() => supervisor.received.length > 0, 10_000, "the supervisor's socket is bound");
    supervisor.received.shift();
    return supervisor;
  }

  static pathIn(directory: string): string {
    return join(directory, "notify");
  }

  /** Messages but those of the watchdog. */
  get texts(): string[] {
    return this.received.map(({ text }) => text).filter((text) => text !== "WATCHDOG=1");
  }

  get beats(): Notification[] {
    return this.received.filter(({ text }) => text === "WATCHDOG=1");
  }

  async end(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#child.exited;
  }
}
