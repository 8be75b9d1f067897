/** What the commands of AMQP ask, whoever has the brokers. */
import type { RpcError } from "../../core/errors.ts";
import type { CallOptions } from "../../rpc/client.ts";

/** Answers the methods `amqp.*`. */
export interface Brokers {
  /** @throws RpcError with the exit code of what went wrong */
  call<T>(method: string, params: object, options?: CallOptions): Promise<T>;
  /** One result or error for each, in their order. */
  callEach<T>(method: string, params: readonly object[], options?: CallOptions): Promise<(T | RpcError)[]>;
  /** A daemon's, which has the brokers; `undefined`: they are this process's. */
  readonly socketPath: string | undefined;
  close(): Promise<void>;
}
