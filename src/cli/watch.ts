/**
 * `dmq list --watch`: on a terminal the table, drawn again when something happens and each second, for the round trips; in
 * a pipe, and as JSON, the list each time that more than such figures changed.
 */
import { RpcError } from "../core/errors.ts";
import type { RpcClient } from "../rpc/client.ts";
import type { NodeRow } from "../rpc/surface.ts";
import type { CliContext } from "./context.ts";
import { EXIT } from "./exit.ts";
import type { OutputForm } from "./output.ts";
import { ANSWER_MS_MAX } from "./socket.ts";

const REDRAW_MS = 1_000;

/** Between the last answer of a daemon that ends and the end of its streams. */
const GOODBYE_MS = 1_000;

/** Clear the screen; to its upper left corner, and away with what stands below. */
const CLEAR = "\u001b[2J";
const HOME = "\u001b[H\u001b[J";

/** They change with every request. */
const FLEETING: readonly (keyof NodeRow)[] = ["rtt_ms", "last_seen", "in_flight", "queued"];

/**
 * @param write  prints the list
 * @returns      the exit code, when the reader of stdout left or the daemon ended
 * @throws       RpcError where the daemon is gone
 */
export async function watch(
  context: CliContext,
  client: RpcClient,
  form: OutputForm,
  write: (rows: NodeRow[]) => void,
): Promise<number> {
  const isScreen = form === "table" && context.env.TERM !== "dumb";
  const stop = new AbortController();
  const signal = AbortSignal.any([stop.signal, context.outputClosed]);
  let wake = (): void => undefined;
  let isOpen = true;
  const { promise: opened, resolve: onOpen } = Promise.withResolvers<void>();
  const following = (async () => {
    for await (const _event of client.stream("/events", signal, onOpen)) wake();
  })().finally(() => {
    isOpen = false;
    onOpen();
    wake();
  });
  following.catch(() => undefined);
  await opened;
  let shown: string | undefined;
  if (isScreen) context.stdout(CLEAR);
  try {
    while (isOpen && !context.outputClosed.aborted) {
      const rows = await client.call<NodeRow[]>("dmq.list_nodes", undefined, { timeoutMs: ANSWER_MS_MAX });
      const now = lasting(rows);
      if (isScreen) context.stdout(HOME);
      if (isScreen || now !== shown) write(rows);
      shown = now;
      const { promise, resolve } = Promise.withResolvers<void>();
      wake = resolve;
      const timer = setTimeout(resolve, REDRAW_MS);
      if (isOpen) await promise;
      clearTimeout(timer);
    }
  } catch (error) {
    if (!(error instanceof RpcError)) throw error;
    // A daemon that ends answers no more; how its stream ends tells whether it went in good order.
    await Promise.race([following, Bun.sleep(GOODBYE_MS)]);
    if (isOpen) throw error;
  } finally {
    stop.abort();
  }
  await following;
  if (!context.outputClosed.aborted) context.stderr("dmq: the daemon ended\n");
  return EXIT.ok;
}

function lasting(rows: readonly NodeRow[]): string {
  return JSON.stringify(rows, (key, value) => (FLEETING.some((field) => field === key) ? undefined : value));
}
