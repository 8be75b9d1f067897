/** What to declare, to bind and to consume: kazoo's names and ours in one shape. */
import type { HeaderValue } from "./message.ts";

export type Arguments = Readonly<Record<string, HeaderValue>>;

/** An exchange that the subscription's own exchange is bound to. */
export interface ExchangeBinding {
  readonly source: string;
  readonly type: string;
  readonly routing: readonly string[];
  readonly durable: boolean;
  readonly autoDelete: boolean;
  readonly passive: boolean;
}

export interface ExchangeDefinition {
  readonly name: string;
  readonly type: string;
  readonly durable: boolean;
  readonly autoDelete: boolean;
  readonly internal: boolean;
  /** Only look whether it is there. */
  readonly passive: boolean;
  readonly arguments?: Arguments;
}

export interface QueueDefinition {
  /** Empty: the broker makes a name up. */
  readonly name: string;
  readonly durable: boolean;
  readonly autoDelete: boolean;
  readonly exclusive: boolean;
  /** Only look whether it is there. */
  readonly passive: boolean;
  readonly arguments?: Arguments;
}

export interface Subscription {
  /** Without it nothing is bound. */
  readonly exchange?: ExchangeDefinition;
  readonly exchangeBindings: readonly ExchangeBinding[];
  /** Looked for only, with `passive`. */
  readonly queue: QueueDefinition;
  /** Bound with each of them; none binds with the empty key. */
  readonly routing: readonly string[];
  /** Arguments of the bindings, for exchanges of type `headers`. */
  readonly bindingArguments?: Arguments;
  /** The broker forgets what it has sent. */
  readonly noAck: boolean;
  /** Unacknowledged messages at most; 0 is no limit. */
  readonly prefetch: number;
  /** Nobody else may consume the queue. */
  readonly exclusiveConsumer?: boolean;
  readonly consumerArguments?: Arguments;
  /** In the other zones too. */
  readonly federate: boolean;
}
