/**
 * One connection to one address of one broker: the only file that knows the client library, which it loads when it is first needed.
 *
 * What the library leaves to its users is done here: handlers of errors before anything else, a limit for the whole handshake, the
 * reason of an end kept until it is told, and a socket that is destroyed where the other side does not answer a close.
 */
import type { Socket } from "node:net";
import type { Channel, ChannelModel, ConfirmChannel, ConsumeMessage, GetMessage, Message, Options } from "amqplib";
import { AmqpError } from "./error.ts";
import { gatherWrites } from "./gather.ts";
import type { BrokerUrl } from "./url.ts";

export type { Channel, ConfirmChannel, ConsumeMessage, GetMessage, Message };
export type PublishOptions = Options.Publish;

/** PEM texts; without `ca` the authorities of the system. */
export interface AmqpTls {
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
  /** Expected in the certificate instead of the host's name. */
  readonly servername?: string;
  /** Nothing is verified. */
  readonly insecure?: boolean;
}

export interface ConnectOptions {
  /** For address, TLS and handshake together. */
  readonly connectTimeoutMs: number;
  /** What the broker lists us as. */
  readonly connectionName: string;
  readonly tls?: AmqpTls;
}

/** Why a connection or channel ended. */
export interface Ended {
  readonly text: string;
  /** What the broker gave as the reason, if it ended it. */
  readonly replyCode: number | undefined;
}

/** How long a broker may take to agree to the end. */
const CLOSE_MS = 1_000;

export interface RefusalOptions {
  readonly replyCode?: number | undefined;
  readonly isFatal: boolean;
  readonly isClosed?: boolean;
}

/** Why a broker was not connected to. */
export class Refusal extends AmqpError {
  /** The next attempt would meet it again: login, virtual host, certificate. */
  readonly isFatal: boolean;
  /** Nobody listens there now. */
  readonly isClosed: boolean;

  constructor(code: AmqpError["code"], message: string, options: RefusalOptions) {
    super(code, message, { replyCode: options.replyCode });
    this.isFatal = options.isFatal;
    this.isClosed = options.isClosed ?? false;
  }
}

export class Connection {
  readonly broker: BrokerUrl;
  /** The address that was connected to, of those that the name has. */
  readonly address: string;
  /** Why the broker takes no publications now (connection.blocked). */
  blocked: string | undefined;
  private readonly model: ChannelModel;
  private readonly openAnother: () => Promise<Connection>;
  private other: Promise<Connection> | undefined;
  private isClosing = false;
  private ended: Ended | undefined;
  private failure: Ended | undefined;
  private readonly endings: ((ended: Ended) => void)[] = [];
  private readonly blockings: (() => void)[] = [];

  constructor(model: ChannelModel, broker: BrokerUrl, address: string, openAnother: () => Promise<Connection>) {
    this.model = model;
    this.openAnother = openAnother;
    this.broker = broker;
    this.address = address;
    model.on("error", (error: Error) => {
      this.failure ??= { text: error.message, replyCode: codeOf(error) };
    });
    model.on("close", (error?: Error) => this.end(error));
    model.on("blocked", (reason: string) => this.block(reason));
    model.on("unblocked", () => this.block(undefined));
  }

  get isOpen(): boolean {
    return this.ended === undefined;
  }

  /** Why it has ended, or is about to; known before calls on its channels fail. */
  get reason(): Ended | undefined {
    return this.ended ?? this.failure;
  }

  /**
   * Another connection to the same address, for consumers: from one that publishes, a broker that is short of memory reads nothing any
   * more, not even that messages may be forgotten, which is what would help it. The two end together.
   *
   * @throws Refusal
   */
  forConsumers(): Promise<Connection> {
    this.other ??= this.openOther();
    return this.other;
  }

  /** Calls `then` once, at once where it has ended already. */
  onEnd(then: (ended: Ended) => void): void {
    if (this.ended === undefined) this.endings.push(then);
    else then(this.ended);
  }

  /** Calls `then` whenever `blocked` changes. */
  onBlocked(then: () => void): void {
    this.blockings.push(then);
  }

  /** @throws AmqpError `amqp-unreachable` if the connection ends meanwhile */
  async channel(): Promise<Channel> {
    return this.guard(await this.opening(() => this.model.createChannel()));
  }

  /** As `channel`; what is published on it is confirmed. */
  async confirmChannel(): Promise<ConfirmChannel> {
    return this.guard(await this.opening(() => this.model.createConfirmChannel()));
  }

  /** Ends it in good order; after a second without an answer the socket is destroyed. */
  async close(): Promise<void> {
    if (this.ended !== undefined) return;
    this.isClosing = true;
    const limit = Promise.withResolvers<void>();
    const timer = setTimeout(limit.resolve, CLOSE_MS);
    await Promise.race([this.closeBoth(), limit.promise]);
    clearTimeout(timer);
    this.destroy("closed by us");
  }

  /** Ends it at once, with nothing said to the broker. */
  destroy(why: string): void {
    if (this.ended !== undefined) return;
    this.failure ??= { text: why, replyCode: undefined };
    this.end(undefined);
  }

  private async openOther(): Promise<Connection> {
    try {
      const other = await this.openAnother();
      other.onEnd(({ text }) => {
        if (!this.isClosing) this.destroy(text);
      });
      this.onEnd(({ text }) => other.destroy(text));
      return other;
    } catch (error) {
      this.other = undefined;
      throw error;
    }
  }

  private async closeBoth(): Promise<void> {
    await this.other?.then((other) => other.close()).catch(() => undefined);
    await this.model.close().catch(() => undefined);
  }

  private async opening<T>(open: () => Promise<T>): Promise<T> {
    try {
      return await open();
    } catch (error) {
      throw new AmqpError("amqp-unreachable", `${this.broker.text}: ${this.failure?.text ?? textOf(error)}`, {
        replyCode: codeOf(error),
        cause: error,
      });
    }
  }

  /** An error that nobody listens for would end the process. */
  private guard<T extends Channel>(channel: T): T {
    channel.on("error", () => undefined);
    return channel;
  }

  private block(reason: string | undefined): void {
    this.blocked = reason;
    for (const then of this.blockings) then();
  }

  private end(error: Error | undefined): void {
    if (this.ended !== undefined) return;
    const failure = this.failure ?? (error && { text: error.message, replyCode: codeOf(error) });
    this.ended = failure ?? { text: "closed", replyCode: undefined };
    // After a missed heartbeat the library only says goodbye, to a broker that does not listen.
    socketOf(this.model).destroy();
    for (const then of this.endings.splice(0)) then(this.ended);
  }
}

/**
 * Connects to one address.
 *
 * @param address  an IP address of `broker.host`
 * @throws Refusal
 */
export async function openConnection(broker: BrokerUrl, address: string, options: ConnectOptions): Promise<Connection> {
  const { connect, credentials } = await import("amqplib");
  const limit = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    limit.reject(new Error(`no answer within ${options.connectTimeoutMs} ms`));
  }, options.connectTimeoutMs);
  const login = broker.external ? credentials.external() : credentials.plain(broker.user, broker.password);
  const opening = connect(
    {
      ...{
        protocol: broker.tls ? "amqps" : "amqp",
        hostname: address,
        port: broker.port,
        vhost: encodeURIComponent(broker.vhost),
      },
      heartbeat: broker.heartbeatS,
      frameMax: FRAME_BYTES_MAX,
    },
    {
      credentials: login,
      clientProperties: { connection_name: options.connectionName },
      noDelay: true,
      keepAlive: true,
      timeout: options.connectTimeoutMs,
      ...(broker.tls ? tlsOptions(broker, address, options.tls ?? {}) : {}),
    },
  );
  try {
    const model = await Promise.race([opening, limit.promise]);
    gatherWrites(socketOf(model));
    return new Connection(model, broker, address, () => openConnection(broker, address, options));
  } catch (error) {
    // What opens after all is too late.
    opening.then(
      (model) => {
        model.on("error", () => undefined);
        socketOf(model).destroy();
      },
      () => undefined,
    );
    throw refusalOf(error, broker);
  } finally {
    clearTimeout(timer);
  }
}

/** As RabbitMQ offers it. */
const FRAME_BYTES_MAX = 131_072;

function tlsOptions(broker: BrokerUrl, address: string, tls: AmqpTls): object {
  const name = tls.servername ?? broker.host;
  return {
    ...(tls.ca === undefined ? {} : { ca: tls.ca }),
    ...(tls.cert === undefined ? {} : { cert: tls.cert }),
    ...(tls.key === undefined ? {} : { key: tls.key }),
    ...(name === address ? {} : { servername: name }),
    rejectUnauthorized: tls.insecure !== true,
  };
}

function socketOf(model: ChannelModel): Socket {
  return (model.connection as unknown as { stream: Socket }).stream;
}

export function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** A broker that is stopped in good order, or by its operator, ends connections with this (320): nobody's fault. */
const CONNECTION_FORCED = 320;

/** Whether the broker ended it because of something that was sent. */
export function blamesUs(ended: Ended | undefined): boolean {
  return ended?.replyCode !== undefined && ended.replyCode !== CONNECTION_FORCED;
}

/** What the broker gave as the reason. */
export function codeOf(error: unknown): number | undefined {
  const code = (error as { code?: unknown } | undefined)?.code;
  return typeof code === "number" ? code : undefined;
}

const ACCESS_REFUSED = 403;
const NOT_ALLOWED = 530;

/**
 * Errors of the handshake have no code, only the library's words around what it saw, so these are looked at; errors of TLS have a
 * code of OpenSSL or BoringSSL.
 */
function refusalOf(error: unknown, broker: BrokerUrl): Refusal {
  const words = textOf(error);
  const text = `${broker.text}: ${words}`;
  if (words.startsWith(`Handshake terminated by server: ${ACCESS_REFUSED}`)) {
    const advice = broker.external ? "look at the certificate" : "look at user and password";
    return new Refusal("amqp-login", `${text}; ${advice}`, { replyCode: ACCESS_REFUSED, isFatal: true });
  }
  if (words.startsWith("Expected ConnectionOpenOk; got <ConnectionClose")) {
    const vhost = `no virtual host "${broker.vhost}" for user ${broker.user}: it is not there, or closed to this user`;
    return new Refusal("amqp-no-such", `${broker.text}: ${vhost}`, { replyCode: NOT_ALLOWED, isFatal: true });
  }
  const isFatal = isCertificate(error) || words.startsWith("SASL mechanism");
  const isClosed = (error as { code?: unknown } | undefined)?.code === "ECONNREFUSED";
  return new Refusal(isFatal ? "amqp-login" : "amqp-unreachable", text, { isFatal, isClosed });
}

function isCertificate(error: unknown): boolean {
  const code = (error as { code?: unknown } | undefined)?.code;
  return typeof code === "string" && /CERT|ISSUER|VERIFY|ALERT/.test(code);
}
