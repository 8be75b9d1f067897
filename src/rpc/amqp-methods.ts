/**
 * The RPC methods of brokers: what src/amqp/desk.ts does, with its parameters checked. Bodies are `body` where they are UTF-8 and
 * `body_base64` where they are not, as everywhere on the control socket.
 */
import type { AmqpSurface, MessageRequest, PublishRequest, QueryRequest } from "../amqp/desk.ts";
import type { TopologyStep } from "../amqp/topology.ts";
import { define, type Method } from "./method.ts";
import { bodyBytes, invalidParams, type Params } from "./params.ts";
import { type ControlSurface, RpcFault } from "./surface.ts";

const MESSAGE = [
  ...(["body", "body_base64", "content_type", "content_encoding", "amqp_headers", "persistent", "priority"] as const),
  ...(["correlation_id", "reply_to", "expiration_ms", "message_id", "timestamp", "message_type"] as const),
  ...(["user_id", "app_id", "mandatory", "timeout_ms", "kazoo"] as const),
] as const;

export const AMQP_METHODS: readonly (readonly [string, Method])[] = [
  [
    "amqp.publish",
    define({
      required: ["exchange", "routing_key"],
      optional: [...MESSAGE, "confirm", "spool", "declare", "broker"],
      help: "Publishes a message; answers when a broker has confirmed it, or with spool when it is stored.",
      run: (surface, params) => {
        const { confirm, spool, declare, broker } = params;
        const request: PublishRequest = { ...messageOf(params), ...present({ confirm, spool, declare, broker }) };
        return amqpOf(surface).publish(request);
      },
    }),
  ],
  [
    "amqp.query",
    define({
      required: ["exchange", "routing_key"],
      optional: [...MESSAGE, "many", "reply", "idempotent"],
      help: "Publishes a message and waits for the answer to it.",
      run: (surface, params) => {
        const { many, reply, idempotent } = params;
        const request: QueryRequest = { ...messageOf(params), ...present({ many, reply, idempotent }) };
        return amqpOf(surface).query(request);
      },
    }),
  ],
  [
    "amqp.get",
    define({
      required: ["queue"],
      optional: ["ack", "timeout_ms"],
      help: "Takes one message off a queue of the broker's, or null; amqp.settle settles it within 30 s.",
      run: (surface, { queue, ack, timeout_ms }) => amqpOf(surface).get({ queue, ...present({ ack, timeout_ms }) }),
    }),
  ],
  [
    "amqp.settle",
    define({
      required: ["ids"],
      optional: ["how"],
      help: "Settles messages that were fetched or delivered: ack, requeue or reject. Says of how many it could.",
      run: (surface, { ids, how = "ack" }) => amqpOf(surface).settle(ids, how),
    }),
  ],
  [
    "amqp.topology",
    define({
      required: ["steps"],
      optional: ["timeout_ms"],
      help: "Declares, binds, unbinds, deletes and purges exchanges and queues, one step after the other.",
      run: (surface, { steps, timeout_ms: timeoutMs }) => amqpOf(surface).topology(steps.map(stepOf), timeoutMs),
    }),
  ],
  [
    "amqp.status",
    define({
      help: "The brokers, what they are connected with and count, subscriptions, and what is in the spool.",
      run: (surface) => amqpOf(surface).status(),
    }),
  ],
];

/** @throws RpcFault where this surface has no brokers */
export function amqpOf({ amqp }: Pick<ControlSurface, "amqp">): AmqpSurface {
  if (amqp !== undefined) return amqp;
  throw new RpcFault(404, "there are no brokers here: dmq serve --amqp URL", { exit: 4 });
}

type Message = Pick<Params, "exchange" | "routing_key"> & Partial<Params>;

function messageOf(params: Message): MessageRequest {
  const { exchange, routing_key, amqp_headers: headers, message_type: type, mandatory, timeout_ms, kazoo } = params;
  const { content_type, content_encoding, persistent, priority, correlation_id, reply_to, expiration_ms } = params;
  const { message_id, timestamp, user_id, app_id } = params;
  return {
    ...{ exchange, routing_key, body: bodyBytes(params) },
    ...present({ headers: headers as MessageRequest["headers"], type, mandatory, timeout_ms, kazoo }),
    ...present({ content_type, content_encoding, persistent, priority, correlation_id, reply_to, expiration_ms }),
    ...present({ message_id, timestamp, user_id, app_id }),
  };
}

// --- steps of a topology -----------------------------------------------------------------------------------------------

const isText = (value: unknown): boolean => typeof value === "string" && value.isWellFormed();
const isSwitch = (value: unknown): boolean => typeof value === "boolean";
const isTable = (value: unknown): boolean => typeof value === "object" && value !== null && !Array.isArray(value);
const isKind = (value: unknown): boolean => value === "exchange" || value === "queue";

type Member = readonly [name: string, fits: (value: unknown) => boolean, isRequired?: true];

const BINDING: readonly Member[] = [
  ["source", isText, true],
  ["kind", isKind, true],
  ["destination", isText, true],
  ["key", isText, true],
  ["arguments", isTable],
];

const RENAMED: ReadonlyMap<string, string> = new Map([
  ["auto_delete", "autoDelete"],
  ["if_unused", "ifUnused"],
  ["if_empty", "ifEmpty"],
]);

/** By what is done: the members of a step. */
const STEPS: ReadonlyMap<unknown, readonly Member[]> = new Map<unknown, readonly Member[]>([
  [
    "declare-exchange",
    [
      ["name", isText, true],
      ["type", isText],
      ["durable", isSwitch],
      ["auto_delete", isSwitch],
      ["internal", isSwitch],
      ["passive", isSwitch],
      ["arguments", isTable],
    ],
  ],
  [
    "declare-queue",
    [
      ["name", isText],
      ["durable", isSwitch],
      ["auto_delete", isSwitch],
      ["exclusive", isSwitch],
      ["passive", isSwitch],
      ["arguments", isTable],
    ],
  ],
  ["bind", BINDING],
  ["unbind", BINDING],
  [
    "delete",
    [
      ["kind", isKind, true],
      ["name", isText, true],
      ["if_unused", isSwitch],
      ["if_empty", isSwitch],
    ],
  ],
  ["purge", [["name", isText, true]]],
]);

/** @throws RpcFault −32602 with the member that does not fit */
function stepOf(row: object, index: number): TopologyStep {
  const { do: action, ...members } = row as Record<string, unknown>;
  const known = STEPS.get(action);
  if (known === undefined) throw invalidParams(`steps[${index}].do: expected one of ${[...STEPS.keys()].join(", ")}`);
  const unknown = Object.keys(members).find((name) => !known.some(([one]) => one === name));
  if (unknown !== undefined) throw invalidParams(`steps[${index}]: unknown member ${JSON.stringify(unknown)}`);
  const step: Record<string, unknown> = { do: action };
  for (const [name, fits, isRequired] of known) {
    const value = members[name] ?? undefined;
    if (value === undefined && isRequired !== true) continue;
    if (!fits(value)) throw invalidParams(`steps[${index}].${name} is missing, or of the wrong type`);
    step[RENAMED.get(name) ?? name] = value;
  }
  return step as unknown as TopologyStep;
}

/** The members that are there. */
function present<T extends object>(members: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined)) as never;
}
