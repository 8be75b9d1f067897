/** The example of docs/LIBRARY.md is run as it stands there, against the library as it is. */
import { expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const ROOT = join(import.meta.dir, "../..");

function block(text: string, fence: string): string {
  const start = text.indexOf(`\`\`\`${fence}\n`) + fence.length + 4;
  return text.slice(start, text.indexOf("```", start));
}

test("library: the example of its document prints what the document says", () => {
  const document = readFileSync(join(ROOT, "docs/LIBRARY.md"), "utf8");
  const folder = mkdtempSync(join(ROOT, "dist-example-"));
  try {
    const program = join(folder, "example.ts");
    writeFileSync(program, block(document, "ts").replace('from "dmq"', 'from "../src/index.ts"'));
    const run = Bun.spawnSync([process.execPath, program], { timeout: 20_000 });
    expect(run.stderr.toString()).toBe("");
    expect(run.stdout.toString()).toBe(block(document.slice(document.indexOf("It prints")), ""));
  } finally {
    rmSync(folder, { recursive: true });
  }
});
