/** How what happened on the bus is written for operators, and which channels they are kept off: the same for every surface. */
import { formatHost } from "../core/endpoint.ts";
import type { Outcome, OutcomeReport } from "../node/io.ts";
import {
  type DeliveryResult,
  MODULE_CHANNELS,
  type NodeRow,
  type PingResult,
  RpcFault,
  type Status,
} from "./surface.ts";

/**
 * @param notificationChannel  of this bus: whatever it is called, a stray body there freezes a Kamailio 5.6.3
 * @throws RpcFault for a channel that is not ours and was not forced open (exit code 2)
 */
export function checkOpen({ channel, force }: { channel: string; force?: boolean }, notificationChannel: string): void {
  if (force === true || (channel !== notificationChannel && !MODULE_CHANNELS.has(channel))) return;
  throw new RpcFault(
    403,
    `channel ${channel} belongs to a module of Kamailio, which a wrong body can crash: --force sends all the same`,
    { exit: 2 },
  );
}

/** What Kamailio's `dmq.list_nodes` has of a node. */
export function kamailioFields(
  host: string,
  port: number,
  transport: "udp" | "tcp" | "tls",
  resolvedIp: string,
  status: Status,
  failCount: number,
): Omit<
  NodeRow,
  "local" | "uri" | "rtt_ms" | "last_seen" | "user_agent" | "source" | "verified" | "in_flight" | "queued"
> {
  return {
    host: formatHost(host),
    port: String(port),
    proto: transport === "udp" ? "*" : transport,
    resolved_ip: resolvedIp,
    status,
    last_notification: 0,
    fail_count: failCount,
  } as const;
}

/** Milliseconds with three digits of a fraction. */
export function rounded(ms: number): number {
  return Math.round(ms * 1_000) / 1_000;
}

/** A message that was sent once. */
export function resultOf(report: OutcomeReport, messageId?: string): DeliveryResult {
  return resultOfTries({ report, tries: 1, messageId, isNotWaitedFor: false });
}

export interface TriesFacts {
  report: OutcomeReport;
  tries: number;
  messageId: string | undefined;
  /** What became of the last try, where an earlier one was a timeout. */
  last?: Outcome;
  /** It was given up because enough other nodes had answered. */
  isNotWaitedFor: boolean;
}

/** A message that was sent as often as `channel/retry.ts` found right. */
export function resultOfTries(facts: TriesFacts): DeliveryResult {
  const { peer, outcome, elapsedMs, attempts } = facts.report;
  const how = { ms: rounded(elapsedMs), attempts, tries: facts.tries, message_id: facts.messageId ?? null };
  const base = { node: peer, outcome: outcome.type, ...how, consumer: false, code: null };
  switch (outcome.type) {
    case "delivered":
      return {
        ...base,
        code: outcome.code,
        reason: outcome.reason,
        consumer: outcome.consumer,
        ...(outcome.contentType === undefined ? {} : { content_type: outcome.contentType }),
        ...(outcome.body === undefined ? {} : { body_base64: Buffer.from(outcome.body).toString("base64") }),
      };
    case "rejected":
      return { ...base, code: outcome.code, reason: outcome.reason };
    case "unreachable":
      return { ...base, reason: outcome.reason };
    case "timeout":
      return { ...base, reason: timeoutReason(facts.last) };
    case "overloaded":
      return { ...base, reason: "the queue for this node is full: nothing was sent" };
    case "cancelled":
      return { ...base, reason: facts.isNotWaitedFor ? NOT_WAITED_FOR : "given up before there was an answer" };
  }
}

/** A message that is in the outbox. */
export function spooledResult(node: string, messageId: string): DeliveryResult {
  const how = { ms: 0, consumer: false, attempts: 0, tries: 0, message_id: messageId };
  return {
    node,
    outcome: "spooled",
    code: null,
    reason: "stored, not delivered yet: it goes out when the node is there",
    ...how,
  };
}

/** A message that was in the outbox before under the same id, and is there no more. */
export function endedResult(
  node: string,
  messageId: string,
  end: { type: "delivered" } | { type: "dead"; reason: string },
): DeliveryResult {
  const how = { ms: 0, consumer: end.type === "delivered", attempts: 0, tries: 0, message_id: messageId };
  if (end.type === "delivered")
    return { node, outcome: "delivered", code: null, reason: "delivered before, under the same id", ...how };
  const reason = `a dead letter of the outbox since an earlier call with this id: ${end.reason}`;
  return { node, outcome: "rejected", code: null, reason, ...how };
}

const NOT_WAITED_FOR = "not waited for: enough nodes have answered";

function timeoutReason(last: Outcome | undefined): string {
  const text = "no answer in time: it may or may not have happened there";
  if (last?.type === "rejected") return `${text}; the last try was answered ${last.code} ${last.reason}`;
  return last === undefined ? text : `${text}; the last try was ${last.type}`;
}

/** A ping's answer is a node list, which is nobody's business but the membership's. */
export function pingResultOf(report: OutcomeReport): PingResult {
  const { node, code, reason, ms, attempts } = resultOf(report);
  return { node, outcome: report.outcome.type, code, reason, ms, attempts };
}
