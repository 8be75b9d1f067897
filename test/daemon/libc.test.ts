/** What the C library is asked to do with this process; in a process of its own, because it cannot be taken back by looking away. */
// needs programs: bash cat env false head sleep tr true wc
import { expect, test } from "bun:test";
import { join } from "node:path";

test("local: after forbidDumps the kernel dumps nothing of the process, and commands that it starts are as ever", () => {
  const script = `
    import { dlopen } from "bun:ffi";
    import { forbidDumps } from ${JSON.stringify(join(import.meta.dir, "../../src/daemon/libc.ts"))};
    const prctl = { args: ["i32", "u64", "u64", "u64", "u64"], returns: "i32" };
    const { symbols } = dlopen("libc.so.6", { prctl });
    const PR_GET_DUMPABLE = 3;
    const before = symbols.prctl(PR_GET_DUMPABLE, 0n, 0n, 0n, 0n);
    const done = forbidDumps();
    console.log(before, done, symbols.prctl(PR_GET_DUMPABLE, 0n, 0n, 0n, 0n), Bun.spawnSync(["true"]).success);`;
  const child = Bun.spawnSync([process.execPath, "-e", script], { stdout: "pipe", stderr: "pipe" });
  expect(child.stderr.toString()).toBe("");
  expect(child.stdout.toString()).toBe("1 true 0 true\n");
});
