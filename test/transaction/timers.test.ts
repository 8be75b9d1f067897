import { describe, expect, test } from "bun:test";
import { UsageError } from "../../src/core/errors.ts";
import {
  DEFAULT_TIMERS,
  timerE,
  timerF,
  timerJ,
  timerK,
  timerSettings,
  tryingDelay,
} from "../../src/transaction/timers.ts";

describe("timers", () => {
  test("Timer E doubles from T1 to T2 while trying", () => {
    const intervals = [1, 2, 3, 4, 5, 20, 2_000].map((sent) => timerE(DEFAULT_TIMERS, "udp", sent, "trying"));
    expect(intervals).toEqual([500, 1_000, 2_000, 4_000, 4_000, 4_000, 4_000]);
  });

  test("Timer E is T2 at once while proceeding", () => {
    expect(timerE(DEFAULT_TIMERS, "udp", 1, "proceeding")).toBe(4_000);
  });

  test("durations by transport are those of RFC 3261 Table 4", () => {
    const table = (["udp", "tcp", "tls"] as const).map((transport) => ({
      e: timerE(DEFAULT_TIMERS, transport, 1, "trying"),
      j: timerJ(DEFAULT_TIMERS, transport),
      k: timerK(DEFAULT_TIMERS, transport),
      delay: tryingDelay(DEFAULT_TIMERS, transport),
    }));
    const stream = { e: undefined, j: 0, k: 0, delay: 0 };
    expect(timerF(DEFAULT_TIMERS)).toBe(32_000);
    expect(table).toEqual([{ e: 500, j: 32_000, k: 5_000, delay: 3_500 }, stream, stream]);
  });

  test("settings are completed with the defaults", () => {
    expect(timerSettings()).toEqual({ t1Ms: 500, t2Ms: 4_000, t4Ms: 5_000 });
    expect(timerSettings({ t1Ms: 100 })).toEqual({ t1Ms: 100, t2Ms: 4_000, t4Ms: 5_000 });
  });

  test.each([
    [{ t1Ms: 0 }],
    [{ t1Ms: -1 }],
    [{ t1Ms: Number.NaN }],
    [{ t1Ms: 5_000 }],
    [{ t2Ms: Infinity }],
    [{ t4Ms: -1 }],
    [{ t4Ms: Number.NaN }],
  ])("settings %j are refused", (settings) => {
    expect(() => timerSettings(settings)).toThrow(UsageError);
  });
});
