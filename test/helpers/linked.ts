/** Nodes with links and a store, nodes without, and requests by hand: what tests of links are made of. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createNode, type RunningNode } from "../../src/daemon/driver.ts";
import { type Client, Publisher } from "../../src/link/broker.ts";
import { type Closed, readLinks } from "../../src/link/definition.ts";
import type { LinkQueues } from "../../src/link/host.ts";
import { Links, type LinksOptions } from "../../src/link/links.ts";
import { Outbox } from "../../src/link/outbox.ts";
import { Spool } from "../../src/link/spool.ts";
import type { ChannelMessage } from "../../src/node/io.ts";
import { parseDefinition } from "../../src/queue/definition.ts";
import { inProcess } from "../../src/queue/open.ts";
import type { DeadItem, Item, Sizes } from "../../src/queue/operation.ts";
import type { QueueStore } from "../../src/queue/store.ts";
import { until } from "./wait.ts";

const OPEN: Closed = { inbound: new Set(), outbound: new Set() };

/** Node, store and links, as a daemon has them. */
export class Linked {
  readonly node: RunningNode;
  readonly store: QueueStore;
  readonly links: Links;
  readonly outbox: Outbox;
  readonly warnings: string[];

  constructor(node: RunningNode, store: QueueStore, links: Links, outbox: Outbox, warnings: string[]) {
    this.node = node;
    this.store = store;
    this.links = links;
    this.outbox = outbox;
    this.warnings = warnings;
  }

  async add(queue: string, ...values: string[]): Promise<void> {
    const items = values.map((value) => ({ key: value, value: new TextEncoder().encode(value) }));
    await this.store.perform({ type: "add", queue, items });
  }

  async values(queue: string): Promise<string[]> {
    return (await this.items(queue)).map(({ value }) => new TextDecoder().decode(value));
  }

  items(queue: string): Promise<Item[]> {
    return this.store.perform({ type: "peek", queue, count: 100 });
  }

  dead(queue: string): Promise<DeadItem[]> {
    return this.store.perform({ type: "dead", queue, count: 100 });
  }

  sizes(queue: string): Promise<Sizes> {
    return this.store.perform({ type: "sizes", queue });
  }

  async isEmpty(queue: string): Promise<boolean> {
    const { ready, delayed, leased } = await this.sizes(queue);
    return ready + delayed + leased === 0;
  }
}

export interface LinkedOptions {
  links?: readonly string[];
  queues?: readonly string[];
  address?: string;
  directory?: string;
  prepare?: (node: RunningNode) => void;
  seeds?: readonly string[];
  /** For links with a broker at one end. */
  client?: Client;
  /** Default `dmq`. */
  bus?: string;
  closed?: readonly string[];
  heartbeatMs?: number;
}

export type Answering = (body: string, count: number) => number | { status: number; retryAfterSeconds: number };

export interface Plain {
  node: RunningNode;
  messages: ChannelMessage[];
  bodies: string[];
}

export interface LinkedNodes {
  closing: (() => unknown)[];
  closeAll(): Promise<void>;
  /** A directory that is gone afterwards. */
  folder(): string;
  linked(options?: LinkedOptions): Promise<Linked>;
  /** A node without links that answers messages of channel `lab`, or of another one, and keeps them. */
  plain(answer: Answering, address?: string, channel?: string): Promise<Plain>;
  /** Sends octets from one port, and gives back the first answer to each call. */
  wire(): Promise<(to: RunningNode, text: string) => Promise<string>>;
}

export function linkedNodes(): LinkedNodes {
  const closing: (() => unknown)[] = [];

  async function closeAll(): Promise<void> {
    for (const close of closing.splice(0).reverse()) await close();
  }

  function folder(): string {
    const directory = mkdtempSync(join(tmpdir(), "dmq-link-"));
    closing.push(() => rmSync(directory, { recursive: true, force: true }));
    return directory;
  }

  async function linked(options: LinkedOptions = {}): Promise<Linked> {
    const store = inProcess({ directory: options.directory ?? folder(), bytesMax: 2 ** 30, repair: false });
    closing.push(() => store.close());
    const define = (text: string): Promise<unknown> =>
      store.perform({ type: "define", definition: parseDefinition(text) });
    for (const text of options.queues ?? []) await define(text);
    const queues: LinkQueues = { open: async () => store, define };
    const warnings: string[] = [];
    const ignore = (): void => {};
    const warn = (text: string): void => void warnings.push(text);
    const log = { error: ignore, warn, info: ignore, debug: ignore, trace: ignore };
    const closed = new Set(options.closed);
    const { broker, spool } = brokerOf(options, queues, log);
    const links = new Links({
      links: readLinks(options.links ?? [], { ...OPEN, outbound: closed }, process.env.PATH),
      ...{ queues, log, socketPath: "", closed },
      ...(broker !== undefined && { broker }),
    });
    await links.prepare();
    const settings = {
      ...{ serverAddress: options.address ?? "sip:127.0.0.1:0", pingIntervalMs: 1_000, requestTimeoutMs: 1_000 },
      notificationAddresses: [...(options.seeds ?? [])],
    };
    const node = await createNode(settings, (fresh) => {
      options.prepare?.(fresh);
      links.bind(fresh);
    });
    const outbox = new Outbox({ node, queues, log });
    closing.push(async () => {
      const work = Promise.all([links.close(), outbox.close()]);
      await node.close({ announce: false });
      await work;
      await spool?.close();
    });
    await spool?.resume();
    await links.start(node);
    return new Linked(node, store, links, outbox, warnings);
  }

  async function plain(answer: Answering, address = "sip:127.0.0.1:0", channel = "lab"): Promise<Plain> {
    const messages: ChannelMessage[] = [];
    const bodies: string[] = [];
    const settings = { serverAddress: address, pingIntervalMs: 1_000, requestTimeoutMs: 1_000 };
    const node = await createNode(settings, (fresh) => {
      fresh.channel(channel, (message) => {
        messages.push(message);
        bodies.push(new TextDecoder().decode(message.body));
        return answer(bodies.at(-1) as string, bodies.length);
      });
    });
    closing.push(() => node.close({ announce: false }));
    return { node, messages, bodies };
  }

  async function wire(): Promise<(to: RunningNode, text: string) => Promise<string>> {
    let answered = Promise.withResolvers<string>();
    const socket = await Bun.udpSocket({
      hostname: "127.0.0.1",
      socket: { data: (_, data) => answered.resolve(data.toString()) },
    });
    closing.push(() => socket.close());
    return (to, text) => {
      answered = Promise.withResolvers();
      const { ip, port } = to.sockets()[0] as { ip: string; port: number };
      socket.send(text, port, ip);
      return answered.promise;
    };
  }

  return { closing, closeAll, folder, linked, plain, wire };
}

function brokerOf(
  { client, bus = "dmq", heartbeatMs = 0 }: LinkedOptions,
  queues: LinkQueues,
  log: LinksOptions["log"],
): { broker?: NonNullable<LinksOptions["broker"]>; spool?: Spool } {
  if (client === undefined) return {};
  const publisher = new Publisher(client);
  const broker = { client, publisher, bus, zone: "local", lockAt: undefined, heartbeatMs };
  return { broker, spool: new Spool({ client: publisher, queues, log }) };
}

export async function meet(one: RunningNode, ...others: RunningNode[]): Promise<void> {
  one.join(others.map((other) => other.uri()));
  const isThere = (from: RunningNode, to: RunningNode): boolean =>
    from.nodes().some(({ uri, status }) => uri === to.uri() && status === "active");
  const all = (): boolean => others.every((other) => isThere(one, other) && isThere(other, one));
  await until(all, 5_000, "they know one another");
}

/** A request as a Kamailio sends it; the same octets are a retransmission. */
export function request(to: RunningNode, body: string, id: string, headers: readonly string[] = []): string {
  const at = to.uri().slice("sip:".length);
  return [
    `KDMQ sip:alerts@${at} SIP/2.0`,
    `Via: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bK${id};rport`,
    `To: <sip:alerts@${at}>`,
    `From: <sip:alerts@127.0.0.1:9>;tag=${id}`,
    "CSeq: 10 KDMQ",
    `Call-ID: ${id}@127.0.0.1`,
    `Content-Length: ${body.length}`,
    "Content-Type: application/json",
    "Max-Forwards: 1",
    ...headers,
    "",
    body,
  ].join("\r\n");
}
