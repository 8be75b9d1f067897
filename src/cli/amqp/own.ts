/** Brokers that a command connects to itself: the methods of docs/RPC.md, served by a client that lives as long as the command. */
import { AmqpClient } from "../../amqp/client.ts";
import { Desk } from "../../amqp/desk.ts";
import { nodeName, readAmqp } from "../../amqp/options.ts";
import { loadConfig } from "../../config/load.ts";
import type { DmqConfig } from "../../config/schema.ts";
import { ConfigError, RpcError, UsageError } from "../../core/errors.ts";
import type { Duration } from "../../core/time.ts";
import { AMQP_METHODS } from "../../rpc/amqp-methods.ts";
import type { CallOptions } from "../../rpc/client.ts";
import { failureOf } from "../../rpc/jsonrpc.ts";
import type { ControlSurface } from "../../rpc/surface.ts";
import type { CliContext } from "../context.ts";
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
    try {
      const found = METHODS.get(method);
      if (found === undefined) throw new Error(`${method} is no method of brokers`);
      await this.ready(params.timeout_ms ?? options.timeoutMs ?? READY_MS);
      return (await found.run({ amqp: this.desk } as unknown as ControlSurface, params)) as T;
    } catch (cause) {
      const { code, message, data } = failureOf(cause);
      throw new RpcError("rpc-fault", message, { method, socketPath: "", fault: code, data, cause });
    }
  }

  callEach<T>(method: string, params: readonly object[]): Promise<(T | RpcError)[]> {
    const told = (error: unknown): RpcError => {
      if (error instanceof RpcError) return error;
      throw error;
    };
    return Promise.all(params.map((one) => this.call<T>(method, one).catch(told)));
  }

  async close(): Promise<void> {
    this.desk.close();
    await this.client.close();
  }
}

const METHODS = new Map(AMQP_METHODS);

/** For all brokers of the list together. */
const READY_MS: Duration = 10_000;
