/** Brokers that a command connects to itself: the methods of docs/RPC.md, served by a client that lives as long as the command. */
import { AmqpClient } from "../../amqp/client.ts";
import { Desk } from "../../amqp/desk.ts";
import type { Publication } from "../../amqp/message.ts";
import { nodeName, readAmqp } from "../../amqp/options.ts";
import { SPOOL, SPOOL_DEFINITION, spooled } from "../../amqp/spool.ts";
import { loadConfig } from "../../config/load.ts";
import type { DmqConfig } from "../../config/schema.ts";
import { ConfigError, RpcError, UsageError } from "../../core/errors.ts";
import type { Duration } from "../../core/time.ts";
import { AMQP_METHODS } from "../../rpc/amqp-methods.ts";
import type { CallOptions } from "../../rpc/client.ts";
import { failureOf } from "../../rpc/jsonrpc.ts";
import type { ControlSurface } from "../../rpc/surface.ts";
import type { CliContext } from "../context.ts";
import { makeQueue } from "../queue/make.ts";
import type { Queues } from "../queue/queues.ts";
import type { Brokers } from "./caller.ts";

/** @throws ConfigError, UsageError for brokers of the command line that are none */
export function readOwn(
  flags: ReadonlyMap<string, readonly string[]>,
  { env }: CliContext,
  file: string | undefined,
): DmqConfig {
  try {
    return loadConfig({ flags, env, ...(file !== undefined && { file }) }).config;
  } catch (error) {
    throw named(error);
  }
}

/** A broker of the command line is an argument of the command. */
function named(error: unknown): unknown {
  if (!(error instanceof ConfigError) || error.option !== "--amqp") return error;
  return new UsageError(`--url: got ${error.received}, expected ${error.expected}`);
}

export class OwnBrokers implements Brokers {
  readonly socketPath = undefined;
  readonly client: AmqpClient;
  private readonly desk: Desk;
  private readonly isPatient: boolean;
  private opening: Promise<void> | undefined;

  /**
   * @param isPatient  waits for a broker where nobody listens at any of them
   * @throws           ConfigError for brokers that are none, and files that cannot be read
   */
  constructor(config: DmqConfig, isPatient: boolean) {
    this.isPatient = isPatient;
    const options = readAmqp(config);
    if (options === undefined) throw new Error("a broker is named");
    this.client = new AmqpClient(options);
    this.desk = new Desk({ client: this.client, nodeName: nodeName(config) });
  }

  /** Connects, once. @throws AmqpError with what each broker said */
  private ready(timeoutMs: Duration): Promise<void> {
    if (this.opening === undefined) {
      this.client.start();
      this.opening = this.client.ready(timeoutMs, !this.isPatient);
    }
    return this.opening;
  }

  async call<T>(method: string, params: { timeout_ms?: Duration }, options: CallOptions = {}): Promise<T> {
    return answered(this.desk, method, params, () => this.ready(params.timeout_ms ?? options.timeoutMs ?? READY_MS));
  }

  callEach<T>(method: string, params: readonly object[]): Promise<(T | RpcError)[]> {
    return eachOf(params, (one) => this.call<T>(method, one));
  }

  async close(): Promise<void> {
    this.desk.close();
    await this.client.close();
  }
}

/** `--spool` where no daemon has brokers: the spool is written here, and the next daemon that has some publishes it. */
export class SpoolOnly implements Brokers {
  readonly socketPath = undefined;
  private readonly queues: Queues;
  private readonly desk: Desk;
  private made: Promise<void> | undefined;

  constructor(queues: Queues, config: DmqConfig) {
    this.queues = queues;
    const spool = { add: (messages: readonly Publication[]) => this.add(messages), report: async () => null };
    this.desk = new Desk({ spool, nodeName: nodeName(config) });
  }

  private async add(messages: readonly Publication[]): Promise<void> {
    const { queues } = this;
    this.made ??= makeQueue(queues, SPOOL, SPOOL_DEFINITION);
    await this.made;
    await queues.perform({ type: "add", queue: SPOOL, items: messages.map(spooled) });
  }

  call<T>(method: string, params: object): Promise<T> {
    return answered(this.desk, method, params, async () => undefined);
  }

  callEach<T>(method: string, params: readonly object[]): Promise<(T | RpcError)[]> {
    return eachOf(params, (one) => this.call<T>(method, one));
  }

  async close(): Promise<void> {
    this.desk.close();
    await this.queues.close();
  }
}

/** What a daemon would answer. @throws RpcError with the exit code of what went wrong */
async function answered<T>(desk: Desk, method: string, params: object, prepare: () => Promise<void>): Promise<T> {
  try {
    const found = METHODS.get(method);
    if (found === undefined) throw new Error(`${method} is no method of brokers`);
    await prepare();
    return (await found.run({ amqp: desk } as unknown as ControlSurface, params as Record<string, unknown>)) as T;
  } catch (cause) {
    const { code, message, data } = failureOf(cause);
    throw new RpcError("rpc-fault", message, { method, socketPath: "", fault: code, data, cause });
  }
}

function eachOf<T>(params: readonly object[], call: (one: object) => Promise<T>): Promise<(T | RpcError)[]> {
  const told = (error: unknown): RpcError => {
    if (error instanceof RpcError) return error;
    throw error;
  };
  return Promise.all(params.map((one) => call(one).catch(told)));
}

const METHODS = new Map(AMQP_METHODS);

/** For all brokers of the list together. */
const READY_MS: Duration = 10_000;
