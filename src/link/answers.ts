/**
 * What the answers of the nodes mean for an item that was sent to them (the table of queue.md B8). Pure: an item, whom it went to,
 * what they said; out comes whether it is done, tried again, or a dead letter.
 */
import type { Duration } from "../core/time.ts";
import type { OutcomeReport } from "../node/io.ts";

export type NodeAnswer =
  /** 2xx. A Kamailio says 202 for a channel that it only sends on: accepted, and thrown away. */
  | { type: "delivered"; text: string }
  /** 404: this node does not have the channel, which is no failure. */
  | { type: "absent"; text: string }
  /** 5xx, 408, 480, or it had no room: asked again, after what it asks for. */
  | { type: "later"; text: string; afterMs?: Duration }
  /** No answer. */
  | { type: "silent"; text: string }
  /** Another 3xx to 6xx: it would say the same again. */
  | { type: "refused"; text: string }
  /** Given up, because the daemon stops. */
  | { type: "cancelled"; text: string };

/** A node that asks for more patience is asked again after that. */
const RETRY_AFTER_MS_MAX: Duration = 300_000;

const LATER: readonly number[] = [408, 480];

export function answerOf({ outcome }: Pick<OutcomeReport, "outcome">): NodeAnswer {
  switch (outcome.type) {
    case "delivered":
      return { type: "delivered", text: `${outcome.code}` };
    case "rejected": {
      const { code, reason, retryAfterSeconds } = outcome;
      const text = `${code} ${reason}`.trim();
      if (code === 404) return { type: "absent", text };
      if (!LATER.includes(code) && (code < 500 || code > 599)) return { type: "refused", text };
      if (retryAfterSeconds === undefined) return { type: "later", text };
      return { type: "later", text, afterMs: Math.min(retryAfterSeconds * 1_000, RETRY_AFTER_MS_MAX) };
    }
    case "timeout":
      return { type: "silent", text: "no answer" };
    case "unreachable":
      return { type: "silent", text: `unreachable: ${outcome.reason}` };
    case "overloaded":
      return { type: "later", text: "overloaded" };
    case "cancelled":
      return { type: "cancelled", text: "given up" };
  }
}

export type Decision =
  | { type: "done" }
  /** To those that have not said what counts; `afresh`: to all, because those that did said no. */
  | { type: "retry"; reason: string; delayMs?: Duration; afresh: boolean }
  | { type: "dead"; reason: string };

/**
 * @param answers  by the node's URI, of all tries
 * @param isLast   there is no further try
 */
export function decide(
  answers: ReadonlyMap<string, NodeAnswer>,
  require: "any" | "all" | "none",
  isLast: boolean,
): Decision {
  const all = [...answers.values()];
  const has = (type: NodeAnswer["type"]): boolean => all.some((answer) => answer.type === type);
  const isOpen = has("later") || has("silent");
  const isSaid = has("delivered");
  const isMet = require === "none" || (isSaid && (require === "any" || !(has("refused") || isOpen)));
  const reason = listOf(answers);
  if (isLast) return isMet ? { type: "done" } : { type: "dead", reason };
  if (isOpen) {
    const delays = all.flatMap((answer) =>
      answer.type === "later" && answer.afterMs !== undefined ? [answer.afterMs] : [],
    );
    return { type: "retry", reason, afresh: false, ...(delays.length > 0 && { delayMs: Math.max(...delays) }) };
  }
  return isMet ? { type: "done" } : { type: "retry", reason, afresh: true };
}

/** Whether a node need not be asked again. */
export function isFinal({ type }: NodeAnswer): boolean {
  return type === "delivered" || type === "absent" || type === "refused";
}

const LIST_CHARS_MAX = 1_000;

/** The answers in words, for a dead letter and the log. */
export function listOf(answers: ReadonlyMap<string, NodeAnswer>): string {
  const list = [...answers].map(([node, { text }]) => `${node}: ${text}`).join(", ");
  return list.length > LIST_CHARS_MAX ? `${list.slice(0, LIST_CHARS_MAX)}…` : list;
}
