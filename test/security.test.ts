/** The promise of docs/SECURITY.md: each threat of its table names a test that is there. */
import { expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

const PAGE = readFileSync(join(import.meta.dir, "..", "docs", "SECURITY.md"), "utf8");

interface Row {
  threat: string;
  file: string;
  name: string;
}

/** Rows whose last cell is `file` and a part of a test's name. */
const ROWS: Row[] = PAGE.split("\n").flatMap((line) => {
  const cells = line.split(/(?<!\\)\|/).map((cell) => cell.trim());
  const found = /^`([a-z/-]+\.test\.ts)` (.+)$/.exec(cells.at(-2) ?? "");
  return found === null ? [] : [{ threat: cells[1] ?? "", file: found[1] as string, name: found[2] as string }];
});

test("SECURITY.md: each defence names a test that is there", () => {
  const missing = ROWS.filter(({ file, name }) => {
    const path = join(import.meta.dir, file);
    return !existsSync(path) || !readFileSync(path, "utf8").includes(name);
  });
  expect(missing).toEqual([]);
  expect(ROWS.length).toBeGreaterThan(35);
});

test("SECURITY.md: no threat of its table is without a test", () => {
  const table = PAGE.slice(PAGE.indexOf("| threat |"), PAGE.indexOf("## What it does not do"));
  const threats = table.split("\n").filter((line) => line.startsWith("| ")).length;
  expect(ROWS.length).toBe(threats - 1);
});

test("SECURITY.md: the counters that it advises to watch are there", () => {
  const io = readFileSync(join(import.meta.dir, "..", "src", "node", "io.ts"), "utf8");
  const advice = PAGE.slice(PAGE.indexOf("Watch `dmq status`"));
  const names = [...advice.slice(0, advice.indexOf("grow when")).matchAll(/`(\w+)`/g)].map(
    ([, name]) => name as string,
  );
  expect(names.length).toBeGreaterThan(3);
  for (const name of names) expect(io).toContain(`  ${name}: number;`);
});
