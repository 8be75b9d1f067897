/**
 * Serves the control surface as HTTP/1.1 on a unix socket (design.md section 7): JSON-RPC on `/rpc`, NDJSON streams on
 * `/listen`, `/events` and `/logs`, `/livez` and `/readyz`. Who may connect is decided by the mode of the socket file alone.
 *
 * A stream that its reader does not keep up with is ended rather than buffered without end; the node never waits for it.
 */

import type { Subscription } from "../amqp/subscription.ts";
import { amqpOf } from "./amqp-methods.ts";
import { answer, failureOf } from "./jsonrpc.ts";
import { itemRow, queuesOf } from "./queue-methods.ts";
import { claimSocket, type SocketClaim } from "./socket-file.ts";
import { type ControlSurface, LOG_LEVELS, REQUEST_BYTES_MAX, STREAM_TYPE } from "./surface.ts";

/** Octets that wait for the reader of one stream, on top of what the kernel takes. */
export const STREAM_BUFFER_BYTES_MAX = 4 * 1024 * 1024;

/** Streams at a time; the next one gets 503. */
export const STREAMS_MAX = 128;

/** How long calls that are running may go on after `close()`. */
const CLOSE_GRACE_MS = 1_000;

/**
 * A send waits up to 32 s for its transaction, a stream for ever; Bun ends what is silent for 10 s unless told not to. Its
 * types know the option for TCP only, hence the wide type.
 */
const NEVER_IDLE: object = { idleTimeout: 0 };

export interface RpcServerOptions {
  path: string;
  surface: ControlSurface;
  /** Numeric group that may connect, too: the socket's mode is then 0660. */
  group?: number | undefined;
}

export interface RpcServer {
  readonly path: string;
  /** Ends the streams, lets running calls finish for a second, removes the socket file if it is still ours. */
  close(): Promise<void>;
}

type HttpServer = Bun.Server<undefined>;

/**
 * @returns once the socket answers
 * @throws  ConfigError if the path cannot be a socket's; TransportError `transport-bind` if another daemon answers there,
 *          something else than a socket is there, or the permission is missing; nothing is left behind then
 */
export async function serveRpc(options: RpcServerOptions): Promise<RpcServer> {
  const streams = new Streams();
  let server: HttpServer | undefined;
  const listen = (path: string): void => {
    server = startServer(path, options.surface, streams);
  };
  const abandon = (): void => void server?.stop(true);
  const claim = await claimSocket({ path: options.path, group: options.group, listen, abandon });
  return { path: options.path, close: () => close(server as HttpServer, claim, streams) };
}

function startServer(path: string, surface: ControlSurface, streams: Streams): HttpServer {
  return Bun.serve({
    ...NEVER_IDLE,
    unix: path,
    maxRequestBodySize: REQUEST_BYTES_MAX,
    development: false,
    fetch: (request) => route(request, surface, streams),
    error: (error) => plain(500, `internal error: ${error.message}`),
  });
}

async function close(server: HttpServer, claim: SocketClaim, streams: Streams): Promise<void> {
  claim.release();
  streams.endAll();
  const grace = Promise.withResolvers<void>();
  const timer = setTimeout(grace.resolve, CLOSE_GRACE_MS);
  await Promise.race([server.stop(false), grace.promise]);
  clearTimeout(timer);
  await server.stop(true);
}

type Handler = (surface: ControlSurface, streams: Streams, request: Request, url: URL) => Response | Promise<Response>;

const ROUTES: ReadonlyMap<string, { method: "GET" | "POST"; handle: Handler }> = new Map([
  ["/rpc", { method: "POST" as const, handle: rpc }],
  ["/listen", { method: "GET" as const, handle: listen }],
  ["/events", { method: "GET" as const, handle: events }],
  ["/logs", { method: "GET" as const, handle: logs }],
  ["/queue/NAME/lease", { method: "GET" as const, handle: lease }],
  ["/amqp/subscribe", { method: "GET" as const, handle: subscribe }],
  ["/livez", { method: "GET" as const, handle: (surface) => health(surface.live(), "live") }],
  ["/readyz", { method: "GET" as const, handle: (surface) => health(surface.ready(), "ready") }],
] satisfies [string, { method: "GET" | "POST"; handle: Handler }][]);

function route(request: Request, surface: ControlSurface, streams: Streams): Response | Promise<Response> {
  const url = URL.parse(request.url);
  if (url === null) return plain(400, "bad request target");
  const found = ROUTES.get(QUEUE_PATH.test(url.pathname) ? "/queue/NAME/lease" : url.pathname);
  if (found === undefined) return plain(404, `no such path, known are: ${[...ROUTES.keys()].join(", ")}`);
  if (request.method === found.method) return found.handle(surface, streams, request, url);
  return plain(405, `only ${found.method} is allowed here`, { Allow: found.method });
}

async function rpc(surface: ControlSurface, _streams: Streams, request: Request): Promise<Response> {
  let text: string;
  try {
    text = await request.text();
  } catch {
    // The only limit that Bun holds while it reads: a body without Content-Length that grew too large.
    return plain(413, `request larger than ${REQUEST_BYTES_MAX} bytes`);
  }
  const body = await answer(surface, text);
  if (body === undefined) return new Response(null, { status: 204 });
  return new Response(body, { headers: { "Content-Type": "application/json" } });
}

function listen(surface: ControlSurface, streams: Streams, _request: Request, url: URL): Response {
  const channels = url.searchParams.getAll("channel");
  if (channels.length === 0 || channels.some((name) => !isPrintable(name))) {
    return plain(400, "name at least one channel: /listen?channel=NAME");
  }
  const answer = switchOf(url, "answer");
  if (answer === undefined) return plain(400, "answer is 0 or 1");
  return streams.open((write) => surface.listen(channels, write, { answer }));
}

function events(surface: ControlSurface, streams: Streams): Response {
  return streams.open((write) => surface.subscribe(write));
}

/** The lines that are kept, oldest first; with `follow=1` also those that come. */
function logs(surface: ControlSurface, streams: Streams, _request: Request, url: URL): Response {
  const follow = switchOf(url, "follow");
  const count = url.searchParams.get("count");
  const named = url.searchParams.get("level");
  const level = LOG_LEVELS.find((one) => one === named);
  if (follow === undefined) return plain(400, "follow is 0 or 1");
  if (named !== null && level === undefined) return plain(400, `level is one of ${LOG_LEVELS.join(", ")}`);
  if (count !== null && !/^\d{1,9}$/.test(count)) return plain(400, "count is a number of lines");
  const query = { ...(level !== undefined && { level }), ...(count !== null && { count: Number(count) }) };
  if (follow) {
    return streams.open((write) => {
      for (const line of surface.logs(query)) write(line);
      return surface.followLogs(level, write);
    });
  }
  const text = surface.logs(query).map((line) => `${JSON.stringify(line)}\n`);
  return new Response(text.join(""), { headers: { "Content-Type": STREAM_TYPE } });
}

const QUEUE_PATH = /^\/queue\/([^/]+)\/lease$/;
const LEASE_MS = 60_000;
const LEASED_MAX = 10_000;

/**
 * The items of a queue as they become ready, each leased as long as the stream is open: `queue.ack` and `queue.nack` settle
 * them, and what is not settled when it ends is ready again. Not more than `count` (1) are unsettled at a time; with `once` not more
 * than those that were ready first are leased at all, and `{"type":"taken"}` is behind them. `{"type":"empty"}`: nothing more is ready,
 * and what comes next is waited for.
 */
function lease(surface: ControlSurface, streams: Streams, _request: Request, url: URL): Response {
  const queue = decodeURIComponent((QUEUE_PATH.exec(url.pathname) as RegExpExecArray)[1] as string);
  const count = numberOf(url, "count", LEASED_MAX) ?? 1;
  const leaseMs = numberOf(url, "lease_ms", LEASE_MS * 60) ?? LEASE_MS;
  const orderByKey = switchOf(url, "order_by_key");
  const once = switchOf(url, "once");
  const key = url.searchParams.get("key");
  if (Number.isNaN(count) || Number.isNaN(leaseMs) || orderByKey === undefined || once === undefined)
    return plain(400, `count is 1 to ${LEASED_MAX}, lease_ms 1 to ${LEASE_MS * 60}, order_by_key and once 0 or 1`);
  return streams.open(
    (write) =>
      queuesOf(surface).follow(
        { queue, count, leaseMs, orderByKey, once, ...(key !== null && { key }) },
        {
          item: (item) => write(itemRow(item)),
          taken: () => write({ type: "taken" }),
          empty: () => write({ type: "empty" }),
          error: (error) => write({ type: "error", error: failureOf(error) }),
        },
      ),
    { oversize: true },
  );
}

/**
 * Messages of a broker as they come, `{"type":"ready"}` once it consumes. Where the subscription acknowledges, each has an `id` for
 * `amqp.settle`; `{"type":"lost","ids":[…]}` names those that the broker has again, and what is not settled when the stream ends goes
 * back, too. What a broker refuses is `{"type":"error"}`, and tried again.
 */
function subscribe(surface: ControlSurface, streams: Streams, _request: Request, url: URL): Response {
  const subscription = subscriptionOf(url.searchParams.get("subscription"));
  if (subscription === undefined) return plain(400, "subscription is a JSON object with queue: see docs/RPC.md");
  return streams.open(
    (write) =>
      amqpOf(surface).subscribe(subscription, {
        connection: (row) => write({ type: "connection", ...row }),
        ready: () => write({ type: "ready" }),
        delivered: (row) => write(row),
        lost: (ids) => write({ type: "lost", ids }),
        error: (error) => write({ type: "error", error: failureOf(error) }),
      }),
    { oversize: true },
  );
}

function subscriptionOf(text: string | null): Subscription | undefined {
  let value: Partial<Subscription> | null;
  try {
    value = JSON.parse(text ?? "null") as Partial<Subscription> | null;
  } catch {
    return undefined;
  }
  if (typeof value !== "object" || value === null || typeof value.queue !== "object") return undefined;
  const standard = { exchangeBindings: [], routing: [], noAck: false, prefetch: PREFETCH, federate: false };
  return { ...standard, ...(value as Subscription) };
}

/** Messages that may be unsettled, where the subscription does not say. */
const PREFETCH = 2;

/** `undefined` where it is not given, NaN where it is none. */
function numberOf(url: URL, name: string, high: number): number | undefined {
  const text = url.searchParams.get(name);
  if (text === null) return undefined;
  return /^[1-9]\d{0,8}$/.test(text) && Number(text) <= high ? Number(text) : Number.NaN;
}

/** `undefined` for what is neither 0 nor 1; absent is 0. */
function switchOf(url: URL, name: string): boolean | undefined {
  const value = url.searchParams.get(name) ?? "0";
  if (value === "1") return true;
  return value === "0" ? false : undefined;
}

function isPrintable(name: string): boolean {
  for (let i = 0; i < name.length; i++) if (name.charCodeAt(i) < 0x20 || name.charCodeAt(i) === 0x7f) return false;
  return name !== "";
}

function health(good: boolean, word: string): Response {
  return good ? plain(200, "ok") : plain(503, `not ${word}`);
}

function plain(status: number, text: string, headers: Record<string, string> = {}): Response {
  return new Response(`${text}\n`, { status, headers: { "Content-Type": "text/plain; charset=utf-8", ...headers } });
}

/** What a stream is fed from: called with the function that writes one line, gives back the one that ends it. */
type Source = (write: (line: object) => void) => () => void;

/** The open streams of one server. */
class Streams {
  readonly #open = new Set<LineStream>();

  /** Subscribes and answers with the stream; a fault of the source becomes the answer of the request. */
  open(source: Source, options: { oversize?: boolean } = {}): Response {
    if (this.#open.size >= STREAMS_MAX) return plain(503, `more than ${STREAMS_MAX} streams`);
    const stream = new LineStream(() => this.#open.delete(stream), options.oversize === true);
    try {
      stream.start(source);
    } catch (error) {
      return faultResponse(error);
    }
    this.#open.add(stream);
    return new Response(stream.readable, { headers: { "Content-Type": STREAM_TYPE } });
  }

  endAll(): void {
    for (const stream of [...this.#open]) stream.end();
  }
}

function faultResponse(error: unknown): Response {
  const fault = failureOf(error);
  const status = fault.code >= 400 && fault.code <= 499 ? fault.code : 500;
  return Response.json({ error: fault }, { status });
}

/** One NDJSON answer: a line per object, bounded, ended by whichever side is first. */
class LineStream {
  readonly readable: ReadableStream<Uint8Array>;
  readonly #onEnd: () => void;
  #controller: ReadableStreamDefaultController<Uint8Array> | undefined;
  #unsubscribe: (() => void) | undefined;
  /** A line that is larger than the whole buffer goes out if it is alone. */
  readonly #oversize: boolean;
  #ended = false;

  constructor(onEnd: () => void, oversize: boolean) {
    this.#onEnd = onEnd;
    this.#oversize = oversize;
    this.readable = new ReadableStream<Uint8Array>(
      {
        start: (controller) => {
          this.#controller = controller;
        },
        cancel: () => this.#finish(),
      },
      new ByteLengthQueuingStrategy({ highWaterMark: STREAM_BUFFER_BYTES_MAX }),
    );
  }

  start(source: Source): void {
    const unsubscribe = source((line) => this.#write(line));
    if (this.#ended) unsubscribe();
    else this.#unsubscribe = unsubscribe;
    // Bun sends the headers with the first octet: an empty line tells the client that nothing is missed from here on.
    if (!this.#ended) this.#controller?.enqueue(LINE_END);
  }

  /** Ends the stream in good order. */
  end(): void {
    if (this.#ended) return;
    this.#controller?.close();
    this.#finish();
  }

  #write(line: object): void {
    if (this.#ended) return;
    const bytes = Buffer.from(`${JSON.stringify(line)}\n`);
    const room = this.#controller?.desiredSize ?? 0;
    if (bytes.length <= room || (this.#oversize && room === STREAM_BUFFER_BYTES_MAX)) {
      this.#controller?.enqueue(bytes);
      return;
    }
    this.#controller?.enqueue(OVERFLOW_LINE);
    this.end();
  }

  #finish(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#unsubscribe?.();
    this.#onEnd();
  }
}

const LINE_END = Buffer.from("\n");
const OVERFLOW_LINE = Buffer.from('{"type":"overflow"}\n');
