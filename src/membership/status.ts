/**
 * Statuses of a peer as they are spelled on the wire and in RPC (Kamailio 6.1 and later), and what changes them.
 *
 * The table below is the whole of it (dmq.md section 8 has Kamailio's own). The bus has one rule that Kamailio lacks:
 * what others say about a third node never changes its status here, because two nodes that believe each other's lists
 * revive a dead third one in turn, for ever.
 */
export type Status = "active" | "not_active" | "disabled";

export const STATUSES: readonly Status[] = ["active", "not_active", "disabled"];

/** What happened to a peer, as far as its status is concerned. */
export type StatusEvent =
  /** It answered a notification of ours with 2xx. */
  | "answered"
  /** A ping of ours got no answer. */
  | "failed"
  /** It said `disabled` of itself. */
  | "left";

/** The options of the module that say what a failure means; names and defaults as in dmq.md section 13. */
export interface FailureRules {
  removeInactive: boolean;
  failCountEnabled: boolean;
  failCountThresholdNotActive: number;
  failCountThresholdDisabled: number;
}

export const DEFAULT_FAILURE_RULES: FailureRules = {
  removeInactive: true,
  failCountEnabled: false,
  failCountThresholdNotActive: 0,
  failCountThresholdDisabled: 1,
};

/** `removed` is no status: the peer leaves the registry. */
export type NextStatus = Status | "removed";

/**
 * What a peer's status becomes after `event`.
 *
 * @param failCount  failures since the last answer, this one included
 * @param permanent  a notification address, which is never given up
 */
export function nextStatus(
  status: Status,
  event: StatusEvent,
  failCount: number,
  permanent: boolean,
  rules: FailureRules,
): NextStatus {
  switch (event) {
    case "answered":
      return "active";
    case "left":
      return "disabled";
    case "failed":
      return rules.failCountEnabled ? afterCount(status, failCount, rules) : afterFailure(status, permanent, rules);
  }
}

function afterCount(status: Status, failCount: number, rules: FailureRules): NextStatus {
  if (status === "active" && failCount > rules.failCountThresholdNotActive) return "not_active";
  if (status === "not_active" && failCount > rules.failCountThresholdDisabled) return "disabled";
  return status;
}

function afterFailure(status: Status, permanent: boolean, rules: FailureRules): NextStatus {
  if (permanent || !rules.removeInactive) return "not_active";
  return status === "disabled" ? "removed" : "disabled";
}
