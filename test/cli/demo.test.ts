import { expect, test } from "bun:test";
import { runCli } from "../helpers/cli.ts";

/** The loopback addresses are those of Linux; elsewhere all but the first have to be set up. */
const SKIPPED = process.platform === "linux" ? "" : " (skipped: 127.0.0.2 and 127.0.0.3 are no addresses here)";

test.skipIf(SKIPPED !== "")(
  `demo: finds, tells, loses, and exits 0${SKIPPED}`,
  async () => {
    const start = performance.now();
    const { code, out, err } = await runCli(["demo"]);
    expect({ code, err }).toEqual({ code: 0, err: "" });
    for (const scene of ["1. Discovery", "2. Unicast", "3. Broadcast", "4. A lost node"]) expect(out).toContain(scene);
    expect(out.match(/ got "good morning"/g)).toHaveLength(1);
    expect(out.match(/ got "good morning, all"/g)).toHaveLength(2);
    expect(out.match(/ answered 200 OK /g)).toHaveLength(3);
    expect(performance.now() - start).toBeLessThan(10_000);
  },
  20_000,
);
