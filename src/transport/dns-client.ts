/**
 * Asks DNS servers, one question at a time: over UDP from a port and with an id by chance, over TCP where the answer is too
 * long for a datagram. It keeps nothing; what an answer is worth is the resolver's to decide.
 *
 * A server that is silent, refuses or talks nonsense costs its share of the time, then the next one is asked; the one that
 * answered last is asked first. Each try has a socket of its own, connected, so that the kernel drops what comes from
 * elsewhere and a closed port shows at once (RFC 5452 §9).
 */
import { formatHost } from "../core/endpoint.ts";
import type { Duration } from "../core/time.ts";
import {
  DNS_MESSAGE_BYTES_MAX,
  type DnsQuestion,
  type DnsRecord,
  type DnsReply,
  type DnsType,
  readReply,
  writeQuestion,
} from "./dns-message.ts";
import type { DnsServer } from "./dns-system.ts";

export interface DnsFindings {
  /** Empty where the servers say that there is nothing. */
  readonly records: readonly DnsRecord[];
  /** There is such a name, perhaps without such records. */
  readonly exists: boolean;
  readonly ttlMs: Duration;
}

/** How long one server is waited for, in each round over all of them. */
const TRY_MS: readonly Duration[] = [1_000, 2_000];
/** Answers that say no more than the name of another name: each costs a question. */
const ALIASES_MAX = 4;
/** Datagrams that are not our answer, after which a server has had its try. */
const STRAYS_MAX = 32;

type FinalReply = Extract<DnsReply, { kind: "records" | "nothing" | "alias" }>;

export class DnsClient {
  /** The server that answered last. */
  #last: string | undefined;

  /**
   * @param servers  in the order in which they are asked
   * @param name     in lower case, complete, without a dot at the end
   * @param signal   ends everything
   * @throws Error   no server gave an answer; says what the last one did
   */
  async ask(servers: readonly DnsServer[], name: string, type: DnsType, signal: AbortSignal): Promise<DnsFindings> {
    let asked = name;
    let ttlMs = Number.POSITIVE_INFINITY;
    for (let aliases = 0; aliases <= ALIASES_MAX; aliases++) {
      const reply = await this.#askAll(servers, asked, type, signal);
      ttlMs = Math.min(ttlMs, reply.ttlMs);
      if (reply.kind === "records") return { records: reply.records, exists: true, ttlMs };
      if (reply.kind === "nothing") return { records: [], exists: reply.exists, ttlMs };
      asked = reply.name;
    }
    throw new Error(`${name} leads from alias to alias`);
  }

  async #askAll(servers: readonly DnsServer[], name: string, type: DnsType, signal: AbortSignal): Promise<FinalReply> {
    const inOrder = servers.toSorted((a, b) => Number(key(b) === this.#last) - Number(key(a) === this.#last));
    let problem = new Error("there is no DNS server to ask");
    for (const tryMs of TRY_MS) {
      for (const server of inOrder) {
        if (signal.aborted) throw problem;
        try {
          const reply = await askOne(server, name, type, tryMs, signal);
          this.#last = key(server);
          return reply;
        } catch (cause) {
          problem = new Error(`${key(server)}: ${(cause as Error).message}`, { cause });
        }
      }
    }
    throw problem;
  }
}

function key({ ip, port }: DnsServer): string {
  return `${formatHost(ip)}:${port}`;
}

async function askOne(
  server: DnsServer,
  name: string,
  type: DnsType,
  tryMs: Duration,
  signal: AbortSignal,
): Promise<FinalReply> {
  const id = crypto.getRandomValues(new Uint16Array(1))[0] as number;
  const exchange: Exchange = { server, question: { id, name, type }, tryMs, signal };
  let reply = await attempt(exchange, overUdp);
  if (reply.kind === "truncated") reply = await attempt(exchange, overTcp);
  if (reply.kind === "truncated") throw new Error("the answer is cut short over TCP too");
  if (reply.kind === "failure") throw new Error(`answered ${reply.reason}`);
  return reply;
}

interface Exchange {
  readonly server: DnsServer;
  readonly question: DnsQuestion;
  readonly tryMs: Duration;
  readonly signal: AbortSignal;
}

interface Waiting {
  done(reply: DnsReply): void;
  failed(cause: Error): void;
}

interface Closable {
  close(): unknown;
}

/** Opens, waits for the one or the other end, and closes in each case. */
async function attempt(
  exchange: Exchange,
  open: (exchange: Exchange, waiting: Waiting) => Promise<Closable>,
): Promise<DnsReply> {
  const { promise, resolve, reject } = Promise.withResolvers<DnsReply>();
  const timer = setTimeout(() => reject(new Error(`no answer in ${exchange.tryMs} ms`)), exchange.tryMs);
  const abort = (): void => reject(new Error("no answer in time"));
  exchange.signal.addEventListener("abort", abort, { once: true });
  const socket = open(exchange, { done: resolve, failed: reject });
  socket.catch(reject);
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
    exchange.signal.removeEventListener("abort", abort);
    socket.then(
      (opened) => opened.close(),
      () => undefined,
    );
  }
}

async function overUdp({ server, question }: Exchange, waiting: Waiting): Promise<Closable> {
  let strays = 0;
  const socket = await Bun.udpSocket({
    connect: { hostname: server.ip, port: server.port },
    socket: {
      data(_socket, bytes) {
        const reply = readReply(bytes, question);
        if (reply !== undefined) waiting.done(reply);
        else if (++strays >= STRAYS_MAX) waiting.failed(new Error("answers nothing that was asked"));
      },
      // Bun 1.4.5 gives the error alone, its types say (socket, error); without this handler the process would end.
      error(...args: unknown[]) {
        waiting.failed(args.at(-1) as Error);
      },
    },
  });
  try {
    socket.send(writeQuestion(question));
  } catch (cause) {
    socket.close();
    throw cause;
  }
  return socket;
}

/** RFC 1035 §4.2.2: two octets of length before each message. */
async function overTcp({ server, question }: Exchange, waiting: Waiting): Promise<Closable> {
  const message = writeQuestion(question);
  const framed = new Uint8Array(2 + message.length);
  new DataView(framed.buffer).setUint16(0, message.length);
  framed.set(message, 2);
  let received = new Uint8Array(0);
  const socket = await Bun.connect({
    hostname: server.ip,
    port: server.port,
    socket: {
      data(_socket, chunk) {
        received = joined(received, chunk);
        const whole = messageIn(received);
        if (whole === "too long") waiting.failed(new Error(`an answer of over ${DNS_MESSAGE_BYTES_MAX} octets`));
        else if (whole !== undefined) settle(readReply(whole, question), waiting);
      },
      close: () => waiting.failed(new Error("closed the connection without an answer")),
      error: (_socket, cause) => waiting.failed(cause),
      connectError: (_socket, cause) => waiting.failed(cause),
    },
  });
  // A question is smaller than any kernel's buffer, so it goes out whole.
  socket.write(framed);
  return { close: () => socket.terminate() };
}

function joined(before: Uint8Array, chunk: Uint8Array): Uint8Array<ArrayBuffer> {
  const both = new Uint8Array(before.length + chunk.length);
  both.set(before);
  both.set(chunk, before.length);
  return both;
}

function messageIn(received: Uint8Array): Uint8Array | "too long" | undefined {
  if (received.length < 2) return undefined;
  const length = new DataView(received.buffer).getUint16(0);
  if (length > DNS_MESSAGE_BYTES_MAX) return "too long";
  return received.length < 2 + length ? undefined : received.subarray(2, 2 + length);
}

function settle(reply: DnsReply | undefined, waiting: Waiting): void {
  if (reply === undefined) waiting.failed(new Error("answers nothing that was asked"));
  else waiting.done(reply);
}
