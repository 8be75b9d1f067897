/**
 * Output of the executable against readers that are slow, or leave: the fake daemon's answer is larger than any pipe. Exit codes
 * tell what was done, not who read of it.
 */
// needs programs: bash cat env false head sleep tr true wc
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { EXECUTABLE } from "../helpers/daemon.ts";
import { finished } from "../helpers/process.ts";

/** Some pipes of Linux hold 1 MiB. */
const LARGE = "x".repeat(4 * 1024 * 1024);
const OUTPUT_BYTES = LARGE.length + '""\n'.length;

const MESSAGE = {
  time: "2026-11-21T00:00:00.000Z",
  channel: "c",
  from: "sip:192.0.2.1",
  content_type: null,
  body: "x",
};

/** Messages without end, as fast as they are taken. */
async function* messages(): AsyncGenerator<string> {
  for (;;) {
    yield `${JSON.stringify(MESSAGE)}\n`;
    await Bun.sleep(1);
  }
}

describe("output", () => {
  const folder = mkdtempSync(join(tmpdir(), "do-"));
  const socket = join(folder, "d.sock");
  let server: Bun.Server<undefined>;
  beforeAll(() => {
    const answer = (): Response => Response.json({ jsonrpc: "2.0", id: 1, result: LARGE });
    const stream = (): Response => new Response(messages, { headers: { "Content-Type": "application/x-ndjson" } });
    const isStream = (request: Request): boolean => new URL(request.url).pathname === "/listen";
    server = Bun.serve({ unix: socket, fetch: (request) => (isStream(request) ? stream() : answer()) });
  });
  afterAll(async () => {
    await server.stop(true);
    rmSync(folder, { recursive: true, force: true });
  });

  /** What a shell makes of a line in which `$DMQ` prints the large answer. */
  async function shell(line: string): Promise<{ stdout: string; stderr: string; code: number }> {
    const child = Bun.spawn(["bash", "-c", line], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
      env: {
        PATH: process.env.PATH ?? "",
        DMQ: `${EXECUTABLE} rpc --socket ${socket} large`,
        EXECUTABLE,
        FOLDER: folder,
      },
    });
    const done = await finished(child);
    return { ...done, stdout: done.stdout.trim() };
  }

  test("all of it gets to a reader that takes its time", async () => {
    const done = await shell("$DMQ | (sleep 0.3; wc -c); echo $" + "{PIPESTATUS[0]}");
    expect(done).toEqual({ stdout: `${OUTPUT_BYTES}\n0`, stderr: "", code: 0 });
  });

  test("all of it gets into a file, behind what is there", async () => {
    expect((await shell("echo before >$FOLDER/out; $DMQ >>$FOLDER/out")).code).toBe(0);
    const written = readFileSync(join(folder, "out"), "latin1");
    expect(written.length).toBe("before\n".length + OUTPUT_BYTES);
    expect(written.slice(0, 10)).toBe('before\n"xx');
  });

  test("a reader that leaves changes nothing but what it reads", async () => {
    const done = await shell("$DMQ | head -c 3; echo; echo $" + "{PIPESTATUS[0]}");
    expect(done).toEqual({ stdout: '"xx\n0', stderr: "", code: 0 });
  });

  test("no stdout at all is no failure either", async () => {
    expect(await shell("$DMQ >&-")).toEqual({ stdout: "", stderr: "", code: 0 });
  });

  test("a place that takes nothing is a failure, with a word", async () => {
    const lost = {
      stdout: "",
      stderr: "dmq: standard output cannot be written (ENOSPC): some of it is lost\n",
      code: 1,
    };
    expect(await shell("$DMQ >/dev/full")).toEqual(lost);
    expect(await shell("$EXECUTABLE version >/dev/full")).toEqual(lost);
    expect(await shell("$DMQ --help >/dev/full")).toEqual(lost);
  });

  test("a stream ends where some of it is lost", async () => {
    const done = await shell("timeout 5 $EXECUTABLE listen -s $FOLDER/d.sock c >/dev/full");
    expect(done.code).toBe(1);
    expect(done.stderr).toContain("(ENOSPC)");
  });

  test("what went wrong already keeps its exit code", async () => {
    const done = await shell("$EXECUTABLE config check --config $FOLDER/none >/dev/full");
    expect(done.code).toBe(9);
  });

  test("on stderr an error comes whole, and the exit code behind it", async () => {
    const done = await shell("$DMQ --nonsense 2>&1 >/dev/null | (sleep 0.2; cat); echo $" + "{PIPESTATUS[0]}");
    expect(done.stdout).toMatch(/^dmq: unknown option --nonsense[^\n]*\n2$/);
  });
});
