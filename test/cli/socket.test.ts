import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { CliContext } from "../../src/cli/context.ts";
import { clientSocketPath, quickSocketPath } from "../../src/cli/socket.ts";

/** A quick daemon and the commands of the same user meet by one rule, whatever the machine has. */
let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "ds-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const UID = process.getuid?.();

function context(env: Record<string, string>, uid: number | undefined = UID): CliContext {
  // Only what the rule may look at is there.
  return { env, uid, temporaryDirectory: folder } as unknown as CliContext;
}

describe("the socket of a quick start", () => {
  test("is the usual one where its directory can be made", () => {
    const world = context({ XDG_RUNTIME_DIR: folder });
    expect(quickSocketPath(world)).toBeUndefined();
    expect(clientSocketPath(world, undefined)).toBe(`${folder}/dmq/dmq.sock`);
  });

  test("is the user's own below the temporary directory elsewhere, and commands find it there once it exists", () => {
    const world = context({ XDG_RUNTIME_DIR: `${folder}/missing` });
    const own = `${folder}/dmq-${UID}/dmq.sock`;
    expect(quickSocketPath(world)).toBe(own);
    expect(clientSocketPath(world, undefined)).toBe(`${folder}/missing/dmq/dmq.sock`);
    mkdirSync(join(folder, `dmq-${UID}`), { mode: 0o700 });
    writeFileSync(own, "");
    expect(clientSocketPath(world, undefined)).toBe(own);
  });

  test("is never in a directory that others own or may write to", () => {
    const world = context({ XDG_RUNTIME_DIR: `${folder}/missing` });
    mkdirSync(join(folder, `dmq-${UID}`));
    chmodSync(join(folder, `dmq-${UID}`), 0o777);
    writeFileSync(`${folder}/dmq-${UID}/dmq.sock`, "");
    expect(quickSocketPath(world)).toBeUndefined();
    expect(clientSocketPath(world, undefined)).toBe(`${folder}/missing/dmq/dmq.sock`);
    mkdirSync(join(folder, "dmq-77"), { mode: 0o700 });
    expect(quickSocketPath(context({ XDG_RUNTIME_DIR: `${folder}/missing` }, 77))).toBeUndefined();
  });

  test("is the one that was named, whatever is there", () => {
    for (const env of [{ DMQ_SOCKET: "/nonexistent/x/d.sock" }, { RUNTIME_DIRECTORY: "/nonexistent/x" }]) {
      expect(quickSocketPath(context(env as Record<string, string>))).toBeUndefined();
    }
    const world = context({ DMQ_SOCKET: "/nonexistent/x/d.sock" });
    expect(clientSocketPath(world, undefined)).toBe("/nonexistent/x/d.sock");
    expect(clientSocketPath(world, "/nonexistent/y.sock")).toBe("/nonexistent/y.sock");
  });
});
