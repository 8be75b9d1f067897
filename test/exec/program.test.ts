import { afterAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findProgram } from "../../src/exec/program.ts";

const FOLDER = mkdtempSync(join(tmpdir(), "dmq-program-"));
afterAll(() => rmSync(FOLDER, { recursive: true }));

const PROGRAM = join(FOLDER, "program");
const PLAIN = join(FOLDER, "plain");
writeFileSync(PROGRAM, "#!/bin/sh\n");
chmodSync(PROGRAM, 0o755);
writeFileSync(PLAIN, "");
mkdirSync(join(FOLDER, "first", "program"), { recursive: true });

describe("program", () => {
  const path = `${join(FOLDER, "first")}::${FOLDER}`;

  test("a bare name is looked for in PATH, where a directory of that name does not count", () => {
    expect(findProgram("program", path)).toEqual({ path: PROGRAM });
  });

  test("a name with a slash is a path", () => expect(findProgram(PROGRAM, "")).toEqual({ path: PROGRAM }));

  const missing: [what: string, name: string, searched: string][] = [
    ["a bare name that is nowhere", "nowhere", `PATH ${join(FOLDER, "first")}:${FOLDER}`],
    ["a file that is not executable, by name", "plain", `PATH ${join(FOLDER, "first")}:${FOLDER}`],
    ["a file that is not executable, by path", PLAIN, "may not be executed"],
    ["a path where nothing is", join(FOLDER, "nothing"), "is not there"],
    ["a directory", FOLDER, "is no file"],
  ];
  for (const [what, name, searched] of missing) {
    test(`${what} is not found, and the place is said`, () => {
      const found = findProgram(name, path);
      expect(found.path).toBeUndefined();
      expect(found.path === undefined && found.searched).toContain(searched);
    });
  }
});
