/** Keeps a link's consumer going until the daemon stops: one that fails, or whose command cannot be run, begins anew after a while. */
import { type Became, consume, type Handler } from "../consume/consumer.ts";
import type { Supply } from "../consume/supply.ts";
import type { Logger } from "../core/logger.ts";
import type { Duration } from "../core/time.ts";
import type { Item } from "../queue/operation.ts";
import type { Sparing } from "./host.ts";

/** After a consumer's end that was not asked for. */
const AGAIN_MS: Duration = 5_000;

export interface Consuming {
  /** Of the link. */
  name: string;
  /** Made anew for each time; the consumer ends it. */
  supply(): Supply;
  handle: Handler;
  jobs: number;
  /** What handlers have when the daemon stops. */
  graceMs: Duration;
  /** What failed, in words: the command, the item. */
  what: string;
  /** Where an item's dead letter is. */
  deadOf(item: Item): string;
}

export interface KeeperHost {
  log: Logger;
  warnings: Sparing;
  stop: AbortSignal;
}

export async function keepConsuming(consuming: Consuming, host: KeeperHost): Promise<void> {
  const { stop, warnings } = host;
  const { name } = consuming;
  while (!stop.aborted) {
    const why = await consumeOnce(consuming, host).catch((error: Error) => error.message);
    if (stop.aborted) return;
    const text = why === undefined ? "it ended" : why;
    warnings.warn(`ended ${name}`, `link ${name} begins anew in ${AGAIN_MS / 1_000} s: ${text}`);
    await pause(AGAIN_MS, stop);
  }
}

/** @returns why no item can be handled, if so */
async function consumeOnce(consuming: Consuming, host: KeeperHost): Promise<string | undefined> {
  const { handle, jobs, graceMs } = consuming;
  const supply = consuming.supply();
  try {
    const endless = { batch: 1, count: Number.POSITIVE_INFINITY, waitMs: Number.POSITIVE_INFINITY };
    const onFailure = (item: Item, why: string, became: Became): void => report(consuming, host, item, why, became);
    return (await consume({ supply, handle, jobs, ...endless, stop: host.stop, graceMs, onFailure })).unable;
  } finally {
    await supply.end();
  }
}

function report({ name, what, deadOf }: Consuming, host: KeeperHost, item: Item, why: string, became: Became): void {
  const fate = became === "dead" ? `it is a dead letter: ${deadOf(item)}` : became;
  const text = `link ${name}: ${what} ${why}; ${fate}`;
  if (became === "dead") host.warnings.warn(`dead ${name}`, text, { item: item.seq });
  else host.log.debug(text, { item: item.seq });
}

async function pause(ms: Duration, signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  const onAbort = (): void => resolve();
  signal.addEventListener("abort", onAbort);
  await promise;
  clearTimeout(timer);
  signal.removeEventListener("abort", onAbort);
}
