import { afterEach, describe, expect, setSystemTime, test } from "bun:test";
import type { Datagrams, Sent } from "../../src/daemon/libc.ts";
import { openSystemd, Systemd, watchdogPeriod } from "../../src/daemon/systemd.ts";
import { until } from "../helpers/wait.ts";

class FakeDatagrams implements Datagrams {
  readonly texts: string[] = [];
  answer: Sent = "sent";
  closed = false;

  send(text: string): Sent {
    if (this.answer === "sent") this.texts.push(text);
    return this.answer;
  }

  monotonicUsec(): bigint {
    return 1_234_567n;
  }

  close(): void {
    this.closed = true;
  }
}

interface Fixture {
  datagrams: FakeDatagrams;
  warnings: string[];
  systemd: Systemd;
}

const open: Systemd[] = [];

function fixture(periodMs?: number): Fixture {
  const datagrams = new FakeDatagrams();
  const warnings: string[] = [];
  const silent = (): void => undefined;
  const log = {
    error: silent,
    warn: (text: string) => void warnings.push(text),
    info: silent,
    debug: silent,
    trace: silent,
  };
  const systemd = new Systemd(datagrams, periodMs, log);
  open.push(systemd);
  return { datagrams, warnings, systemd };
}

afterEach(() => {
  for (const one of open.splice(0)) one.close();
  setSystemTime();
});

describe("what a supervisor is told", () => {
  test("the start with the status, then a status whenever it is another one", () => {
    const { systemd, datagrams } = fixture();
    systemd.status("0 active");
    expect(datagrams.texts).toEqual([]);
    systemd.ready();
    systemd.status("0 active");
    systemd.status("1 active");
    expect(datagrams.texts).toEqual(["READY=1\nSTATUS=0 active", "STATUS=1 active"]);
  });

  test("a reload with the clock that the supervisor compares, and its end", () => {
    const { systemd, datagrams } = fixture();
    systemd.ready();
    systemd.reloading();
    systemd.ready();
    expect(datagrams.texts.slice(1)).toEqual(["RELOADING=1\nMONOTONIC_USEC=1234567", "READY=1\nSTATUS="]);
  });

  test("the end once, and nothing but the watchdog behind it", () => {
    const { systemd, datagrams } = fixture();
    systemd.ready();
    systemd.stopping();
    systemd.stopping();
    systemd.status("1 active");
    systemd.reloading();
    systemd.ready();
    expect(datagrams.texts.slice(1)).toEqual(["STOPPING=1\nSTATUS=leaving"]);
  });

  test("a supervisor that is busy gets everything a little later, in order", async () => {
    const { systemd, datagrams, warnings } = fixture();
    datagrams.answer = "full";
    systemd.ready();
    systemd.status("1 active");
    expect(datagrams.texts).toEqual([]);
    datagrams.answer = "sent";
    await until(() => datagrams.texts.length === 2, 2_000, "both messages arrive");
    expect(datagrams.texts).toEqual(["READY=1\nSTATUS=", "STATUS=1 active"]);
    expect(warnings).toEqual([]);
  });

  test("one that is gone is a warning, once", () => {
    const { systemd, datagrams, warnings } = fixture();
    datagrams.answer = { reason: "ECONNREFUSED" };
    systemd.ready();
    systemd.status("1 active");
    systemd.stopping();
    expect(warnings).toEqual(["the supervisor at NOTIFY_SOCKET is not told: ECONNREFUSED"]);
  });
});

describe("the watchdog", () => {
  test("is told twice in a period while the node keeps up, and not while it is behind", async () => {
    const { systemd, datagrams } = fixture(100);
    const beats = (): number => datagrams.texts.filter((text) => text === "WATCHDOG=1").length;
    let behindMs = 0;
    systemd.watch(() => behindMs);
    const startedAt = performance.now();
    await until(() => beats() >= 4, 2_000, "four beats");
    expect(performance.now() - startedAt).toBeGreaterThan(140);
    behindMs = 50;
    // The beat that was due before the node fell behind may still be on its way; none after it.
    await Bun.sleep(60);
    const before = beats();
    await Bun.sleep(200);
    expect(beats()).toBe(before);
    behindMs = 0;
    await until(() => beats() > before, 2_000, "a beat after the node caught up");
  });

  const cases: [env: Record<string, string>, period: number | undefined][] = [
    [{}, undefined],
    [{ WATCHDOG_USEC: "3000000" }, 3_000],
    [{ WATCHDOG_USEC: "3000000", WATCHDOG_PID: String(process.pid) }, 3_000],
    [{ WATCHDOG_USEC: "3000000", WATCHDOG_PID: "1" }, undefined],
    [{ WATCHDOG_USEC: "0" }, undefined],
    [{ WATCHDOG_USEC: "soon" }, undefined],
  ];
  test.each(cases)("%j has a period of %p ms", (env, period) => {
    expect(watchdogPeriod(env)).toBe(period as number);
  });
});

describe("NOTIFY_SOCKET", () => {
  const silent = (): void => undefined;
  const logTo = (warnings: string[]) => ({
    ...{ error: silent, info: silent, debug: silent, trace: silent },
    warn: (text: string) => void warnings.push(text),
  });

  test("without it there is nobody to tell", async () => {
    expect(await openSystemd({}, logTo([]))).toBeUndefined();
    expect(await openSystemd({ NOTIFY_SOCKET: "" }, logTo([]))).toBeUndefined();
  });

  test.each(["vsock:2:1234", "run/notify", "@", `/${"x".repeat(200)}`])(
    "%s is no place that we know: a warning",
    async (name) => {
      const warnings: string[] = [];
      expect(await openSystemd({ NOTIFY_SOCKET: name }, logTo(warnings))).toBeUndefined();
      expect(warnings).toHaveLength(1);
      expect(warnings[0]).toContain("NOTIFY_SOCKET");
    },
  );
});
