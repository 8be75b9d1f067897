import { describe, expect, test } from "bun:test";
import { fstatSync } from "node:fs";
import { createLogger, isJournal, type LogOptions } from "../../src/cli/log.ts";

function collect(part: Partial<LogOptions> = {}): { lines: string[]; log: ReturnType<typeof createLogger> } {
  const lines: string[] = [];
  const write = (text: string): void => void lines.push(text);
  const options: LogOptions = { level: "info", json: false, colour: false, write, now: () => 0, ...part };
  return { lines, log: createLogger(options) };
}

describe("log", () => {
  test("one line: time, level, text, fields; quoted where a reader could not tell the end", () => {
    const { lines, log } = collect();
    log.info("peer is up", { peer: "sip:127.0.0.2:5060", rtt: 3, why: "it answered", none: undefined });
    const fields = 'peer=sip:127.0.0.2:5060 rtt=3 why="it answered" none=undefined';
    expect(lines).toEqual([`1970-01-01T00:00:00.000Z info  peer is up ${fields}\n`]);
  });

  test("equal lines are all there", () => {
    const { lines, log } = collect();
    for (let i = 0; i < 20; i++) log.warn("again");
    expect(lines).toHaveLength(20);
  });

  test("a level shuts out those below it", () => {
    const { lines, log } = collect({ level: "warn" });
    for (const level of ["error", "warn", "info", "debug", "trace"] as const) log[level](level);
    expect(lines.map((line) => line.trim().split(" ").at(-1))).toEqual(["error", "warn"]);
    const all = collect({ level: "trace" });
    for (const level of ["error", "warn", "info", "debug", "trace"] as const) all.log[level](level);
    expect(all.lines).toHaveLength(5);
  });

  test("in the journal: the level first, no time and no colour", () => {
    const { lines, log } = collect({ level: "trace", journal: true, colour: true });
    for (const level of ["error", "warn", "info", "debug", "trace"] as const) log[level]("a\nb", { peer: "x" });
    expect(lines).toEqual([3, 4, 6, 7, 7].map((level) => `<${level}>a\\nb peer=x\n`));
  });

  test("JSON in the journal keeps its time behind the level", () => {
    const { lines, log } = collect({ json: true, journal: true });
    log.warn("a");
    expect(lines).toEqual(['<4>{"time":"1970-01-01T00:00:00.000Z","level":"warn","text":"a"}\n']);
  });

  test("level and form may change", () => {
    const { lines, log } = collect();
    log.adjust({ level: "debug", json: true });
    log.debug("a");
    expect(lines).toEqual(['{"time":"1970-01-01T00:00:00.000Z","level":"debug","text":"a"}\n']);
  });

  test("the journal is what JOURNAL_STREAM names and stderr is", () => {
    const { dev, ino } = fstatSync(2, { bigint: true });
    expect(isJournal(`${dev}:${ino}`)).toBe(true);
    for (const other of [undefined, "", `${dev}:${ino + 1n}`, "x"]) expect(isJournal(other)).toBe(false);
  });

  test("JSON is one object a line", () => {
    const { lines, log } = collect({ json: true });
    log.error("a\nb", { peer: "x" });
    expect(lines.map((line) => JSON.parse(line))).toEqual([
      { time: "1970-01-01T00:00:00.000Z", level: "error", text: "a\nb", peer: "x" },
    ]);
    expect(lines[0]?.split("\n")).toHaveLength(2);
  });

  test("what a remote sent cannot move the cursor", () => {
    const { lines, log } = collect();
    log.warn("bad \u001b[2J\nline", { from: "\u001b[1m" });
    expect(lines[0]).toBe("1970-01-01T00:00:00.000Z warn  bad \\x1b[2J\\nline from=\\x1b[1m\n");
  });

  test("colour is for terminals only", () => {
    const { lines, log } = collect({ colour: true });
    log.error("x");
    expect(lines[0]).toContain("\u001b[31merror\u001b[0m");
  });
});
