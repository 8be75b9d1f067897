/**
 * Messages that could not be handled, where the broker has no place for them: dead letters of a queue of ours, with what is needed to
 * publish them again (amqp.md B5). They are stored before the broker forgets them.
 */

import { spooled } from "../../amqp/spool.ts";
import type { AmqpItem } from "../../amqp/supply.ts";
import type { Fate } from "../../consume/supply.ts";
import { NAME_PATTERN } from "../../queue/definition.ts";
import type { Arguments } from "../command.ts";
import type { CliContext } from "../context.ts";
import { makeQueue } from "../queue/make.ts";
import { withQueues } from "../queue/open.ts";
import type { Queues } from "../queue/queues.ts";

/** As large as a body may be. */
const MAX_VALUE = "16m";

/** How long it may take to say of an item that it is dead. */
const LEASE_MS = 60_000;

/** Items of a queue that others have put there may stand before it. */
const LEASED_MAX = 100;

const NAME_CHARS_MAX = 59;

/** @returns a name that a queue of ours can have, whatever the broker's is called */
export function lettersName(name: string): string {
  const plain = name.replaceAll(/[^A-Za-z0-9._-]/g, "-").slice(0, NAME_CHARS_MAX);
  return NAME_PATTERN.test(plain) ? plain : `amqp${plain.slice(0, NAME_CHARS_MAX - 4)}`;
}

export class Letters {
  private readonly context: CliContext;
  private readonly args: Arguments;
  private last: Promise<unknown> = Promise.resolve();

  constructor(context: CliContext, args: Arguments) {
    this.context = context;
    this.args = args;
  }

  /** One after the other: each takes its own item from the queue, and no other. @throws QueueError, RpcError */
  bury(item: AmqpItem, queue: string, fate: Fate): Promise<void> {
    const { context, args } = this;
    const job = (): Promise<void> => withQueues(context, args, (queues) => store(queues, queue, item, fate), true);
    const done = this.last.then(job, job);
    this.last = done;
    return done;
  }
}

async function store(queues: Queues, queue: string, { delivery, key }: AmqpItem, fate: Fate): Promise<void> {
  await makeQueue(queues, queue, `name=${queue};max-value=${MAX_VALUE}`);
  const { exchange } = delivery;
  const items = [{ ...spooled(delivery), key, ...(exchange !== "" && { from: exchange }) }];
  const [added] = await queues.perform({ type: "add", queue, items });
  const leased = await queues.lease(
    { queue, count: LEASED_MAX, leaseMs: LEASE_MS, waitMs: 0 },
    AbortSignal.timeout(LEASE_MS),
  );
  const { reason = "handler", exitCode, stderr } = fate;
  const why = { reason, ...(exitCode !== undefined && { exitCode }), ...(stderr !== undefined && { stderr }) };
  const failures = leased.map(({ id, seq }) =>
    seq === added?.seq ? ({ id, fate: "dead", ...why } as const) : ({ id, fate: "now", counts: false } as const),
  );
  if (failures.length > 0) await queues.perform({ type: "fail", failures });
}
