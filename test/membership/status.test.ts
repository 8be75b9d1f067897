import { expect, test } from "bun:test";
import {
  DEFAULT_FAILURE_RULES,
  type FailureRules,
  nextStatus,
  type Status,
  type StatusEvent,
} from "../../src/membership/status.ts";

const counted: FailureRules = { ...DEFAULT_FAILURE_RULES, failCountEnabled: true };
const kept: FailureRules = { ...DEFAULT_FAILURE_RULES, removeInactive: false };

const cases: [
  status: Status,
  event: StatusEvent,
  failCount: number,
  permanent: boolean,
  rules: FailureRules,
  next: string,
][] = [
  ["not_active", "answered", 0, false, DEFAULT_FAILURE_RULES, "active"],
  ["disabled", "answered", 0, false, DEFAULT_FAILURE_RULES, "active"],
  ["active", "left", 0, true, DEFAULT_FAILURE_RULES, "disabled"],
  ["active", "failed", 1, false, DEFAULT_FAILURE_RULES, "disabled"],
  ["disabled", "failed", 2, false, DEFAULT_FAILURE_RULES, "removed"],
  ["active", "failed", 1, true, DEFAULT_FAILURE_RULES, "not_active"],
  ["disabled", "failed", 2, true, DEFAULT_FAILURE_RULES, "not_active"],
  ["active", "failed", 1, false, kept, "not_active"],
  ["not_active", "failed", 9, false, kept, "not_active"],
  ["active", "failed", 1, false, counted, "not_active"],
  ["not_active", "failed", 1, false, counted, "not_active"],
  ["not_active", "failed", 2, false, counted, "disabled"],
  ["active", "failed", 2, false, { ...counted, failCountThresholdNotActive: 2 }, "active"],
  ["active", "failed", 3, false, { ...counted, failCountThresholdNotActive: 2 }, "not_active"],
];

for (const [status, event, failCount, permanent, rules, next] of cases) {
  const how = `${rules.failCountEnabled ? " counted" : ""}${rules.removeInactive ? "" : " kept"}${permanent ? " permanent" : ""}`;
  test(`status: ${status} that ${event} (${failCount} failures${how}) is ${next}`, () => {
    expect(nextStatus(status, event, failCount, permanent, rules)).toBe(next as Status);
  });
}
