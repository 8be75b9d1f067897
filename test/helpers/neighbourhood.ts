/**
 * Daemons for a table of commands: each knows just the nodes that its name says, so that a broadcast meets nothing else. The nodes are
 * sayers; `all` knows a real one besides, `$A`.
 */
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Daemon, Daemons, type StatusRow } from "./daemon.ts";
import { Sayer } from "./sayer.ts";
import { until } from "./wait.ts";

/**
 * `none` is alone, `gone` is a path with no daemon, `own` is one that a row may end,
 * `spoilt` one whose configuration file went wrong.
 */
export type Place =
  | "all"
  | "kind"
  | "refusing"
  | "unknowing"
  | "mute"
  | "closed"
  | "mixed"
  | "none"
  | "gone"
  | "own"
  | "spoilt";

const KNOWN: Record<Exclude<Place, "gone" | "own" | "spoilt">, readonly (keyof Sayers)[]> = {
  all: ["kind", "refusing", "mute", "closed", "rude", "frozen"],
  kind: ["kind"],
  refusing: ["refusing"],
  unknowing: ["unknowing"],
  mute: ["mute"],
  closed: ["closed"],
  mixed: ["mute", "closed"],
  none: [],
};

interface Sayers {
  kind: Sayer;
  refusing: Sayer;
  unknowing: Sayer;
  mute: Sayer;
  closed: Sayer;
  /** Refuses pings: no message ever goes to it. */
  rude: Sayer;
  /** Says nothing at all. */
  frozen: Sayer;
}

/** A port that was free a moment ago: the executable wants a server address that others can be told. */
export async function freeAddress(): Promise<string> {
  const socket = await Bun.udpSocket({ hostname: "127.0.0.1", port: 0 });
  const port = socket.port;
  socket.close();
  return `sip:127.0.0.1:${port}`;
}

/** What a node of these tests is started with: no time runs out, and nobody is dropped for what a row does to it. */
const OPTIONS = [
  ...["--ping-interval", "3600", "--log-level", "error", "--channel", "declared"],
  ...["--fail-count-enabled", "--fail-count-threshold-not-active", "1000000"],
];

export class Neighbourhood {
  readonly daemons: Daemons = new Daemons();
  readonly #places = new Map<Place, Daemon>();
  #sayers: Sayers | undefined;
  #answering: Daemon | undefined;
  #owned = 0;

  async start(): Promise<void> {
    chmodSync(this.daemons.dir, 0o755);
    const ok = "200 OK";
    const [kind, refusing, unknowing, mute, closed, rude, frozen] = await Promise.all([
      Sayer.listen({ ping: ok, other: ok }),
      Sayer.listen({ ping: ok, other: "603 Decline" }),
      Sayer.listen({ ping: ok, other: "404 Not Found" }),
      Sayer.listen({ ping: ok, other: undefined }),
      Sayer.listenTcp({ ping: ok, other: ok }),
      Sayer.listen({ ping: "403 Forbidden", other: ok }),
      Sayer.listen({ ping: undefined, other: undefined }),
    ]);
    this.#sayers = { kind, refusing, unknowing, mute, closed, rude, frozen };
    const places = Object.keys(KNOWN) as (keyof typeof KNOWN)[];
    await Promise.all(places.map((place) => this.#open(place)));
    const meet = ["--notification-address", this.at("all").uri, "--on", "cat=cat"];
    this.#answering = await this.daemons.serve("answering", await freeAddress(), [...OPTIONS, ...meet]);
    await this.at("all").run(["wait", `node=${this.#answering.uri}`, "--timeout", "10s"]);
    closed.close();
  }

  async #open(place: keyof typeof KNOWN): Promise<void> {
    const daemon = await this.daemons.serve(place, await freeAddress(), [...OPTIONS, "--on", "taken=true"]);
    this.#places.set(place, daemon);
    for (const name of KNOWN[place]) await daemon.run(["add", this.sayer(name).uri]);
    const active = KNOWN[place].filter((name) => name !== "rude" && name !== "frozen").length;
    const done = await daemon.run(["wait", `members=${active + 1}`, "--timeout", "10s"]);
    if (done.code !== 0) throw new Error(`${place}: ${done.stderr}`);
  }

  at(place: Place): Daemon {
    return this.#places.get(place) as Daemon;
  }

  sayer(name: keyof Sayers): Sayer {
    return (this.#sayers as Sayers)[name];
  }

  /** A node that knows the channel `cat`, and answers it with what it got. */
  get answering(): Daemon {
    return this.#answering as Daemon;
  }

  /** @returns `undefined` where none is to be */
  async open(place: Place): Promise<Daemon | undefined> {
    if (place === "own") return this.daemons.serve(`own${++this.#owned}`, await freeAddress(), OPTIONS);
    if (place === "spoilt") return this.#spoilt();
    return this.#places.get(place);
  }

  async #spoilt(): Promise<Daemon> {
    const file = join(this.daemons.dir, `spoilt${++this.#owned}.toml`);
    writeFileSync(file, "ping_interval = 60\n");
    const options = ["--config", file, "--log-level", "error"];
    const daemon = await this.daemons.serve(`spoilt${this.#owned}`, await freeAddress(), options);
    writeFileSync(file, "ping_interval = 0\n");
    return daemon;
  }

  end(): Promise<void> {
    for (const sayer of Object.values(this.#sayers ?? {}) as Sayer[]) sayer.close();
    return this.daemons.endAll();
  }
}

/** @returns once somebody listens to the channel at the daemon */
export async function heard(daemon: Daemon, channel: string): Promise<void> {
  const isThere = async (): Promise<boolean> =>
    ((await daemon.status()) as StatusRow).channels.some((one) => one.name === channel && one.consumers > 0);
  await until(isThere, 10_000, `a consumer of ${channel}`);
}
