import { describe, expect, test } from "bun:test";
import type { Logger } from "../../src/core/logger.ts";
import { Journal, LINES_MAX } from "../../src/daemon/journal.ts";
import type { LogLevel, LogRecord } from "../../src/rpc/surface.ts";

function journal(level: LogLevel): { journal: Journal; log: Logger; told: string[] } {
  const told: string[] = [];
  const at = (name: string) => (text: string) => void told.push(`${name} ${text}`);
  const inner = { error: at("error"), warn: at("warn"), info: at("info"), debug: at("debug"), trace: at("trace") };
  const fresh = new Journal({ level, now: () => 0 });
  return { journal: fresh, log: fresh.beside(inner), told };
}

function texts(records: readonly LogRecord[]): string[] {
  return records.map(({ level, text }) => `${level} ${text}`);
}

function logAll(log: Logger): void {
  log.error("1");
  log.warn("2");
  log.info("3");
  log.debug("4");
  log.trace("5");
}

describe("journal", () => {
  test("keeps what the log says at its level, info at least, and passes everything on", () => {
    for (const [level, kept] of [
      ["error", 3],
      ["info", 3],
      ["debug", 4],
      ["trace", 5],
    ] as const) {
      const { journal: fresh, log, told } = journal(level);
      logAll(log);
      expect(told).toEqual(["error 1", "warn 2", "info 3", "debug 4", "trace 5"]);
      expect(texts(fresh.read({}))).toEqual(told.slice(0, kept));
    }
  });

  test("gives those of a level, and the latest of them", () => {
    const { journal: fresh, log } = journal("info");
    logAll(log);
    log.warn("6", { peer: "sip:a", code: 3, ok: true, none: undefined, list: ["x"] });
    expect(texts(fresh.read({ level: "warn" }))).toEqual(["error 1", "warn 2", "warn 6"]);
    expect(texts(fresh.read({ level: "warn", count: 1 }))).toEqual(["warn 6"]);
    expect(fresh.read({ count: 0 })).toEqual([]);
    const fields = { peer: "sip:a", code: 3, ok: true, list: '["x"]' };
    expect(fresh.read({ count: 1 })).toEqual([{ time: "1970-01-01T00:00:00.000Z", level: "warn", text: "6", fields }]);
  });

  test("who follows gets what comes, also below the level of the log, until the end", () => {
    const { journal: fresh, log } = journal("info");
    const [plain, deep]: [LogRecord[], LogRecord[]] = [[], []];
    fresh.follow(undefined, (record) => void plain.push(record));
    const end = fresh.follow("debug", (record) => void deep.push(record));
    logAll(log);
    end();
    log.info("6");
    expect(texts(plain)).toEqual(["error 1", "warn 2", "info 3", "info 6"]);
    expect(texts(deep)).toEqual(["error 1", "warn 2", "info 3", "debug 4"]);
  });

  test("is bounded: lines, the length of a text and of a value, and the number of fields", () => {
    const { journal: fresh, log } = journal("info");
    for (let i = 0; i < LINES_MAX + 10; i++) log.info(`${i}`);
    expect(fresh.read({}).length).toBe(LINES_MAX);
    expect(fresh.read({})[0]?.text).toBe("10");
    const many = Object.fromEntries(Array.from({ length: 40 }, (_, i) => [`f${i}`, "y".repeat(5_000)]));
    log.info("x".repeat(5_000), many);
    const [last] = fresh.read({ count: 1 });
    expect(last?.text.length).toBe(1_001);
    expect(Object.values(last?.fields ?? {}).map((value) => String(value).length)).toEqual(Array(16).fill(1_001));
  });
});
