/**
 * The short form of `npm run fuzz`: a fixed seed, a bounded number of inputs for each target, and all that was ever found.
 * FUZZ_SEED takes another seed.
 */
import { describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { FINDINGS } from "./run.ts";
import { fuzz, inputFromJson, inputToJson } from "./target.ts";
import { TARGETS } from "./targets.ts";

const SEED = Number(process.env.FUZZ_SEED ?? 3261);
/** Together well below 15 seconds. */
const INPUTS: Record<string, number> = {
  codec: 2_000,
  framer: 300,
  node: 120,
  notification: 300,
  rpc: 3_000,
  fifo: 1_200,
  binrpc: 2_000,
  config: 1_500,
  definition: 3_000,
  amqp: 1_000,
};
/** Fewer distinct outcomes than these mean that the inputs do not get anywhere any more. */
const OUTCOMES_MIN: Record<string, number> = {
  codec: 30,
  framer: 20,
  node: 15,
  notification: 8,
  rpc: 10,
  fifo: 10,
  binrpc: 15,
  config: 15,
  definition: 10,
  amqp: 18,
};
const TEST_MS_MAX = 30_000;

function findings(name: string): string[] {
  const folder = join(FINDINGS, name);
  return existsSync(folder) ? readdirSync(folder).map((file) => join(folder, file)) : [];
}

describe("fuzz", () => {
  for (const [name, { target, corpus }] of TARGETS) {
    test(
      `fuzz: ${name} holds its invariant`,
      async () => {
        const report = await fuzz(target, corpus, SEED, { inputs: INPUTS[name] ?? 0 });
        expect(report.finding).toBeUndefined();
        expect(report.inputs).toBeGreaterThan(0);
        expect(report.outcomes.size).toBeGreaterThanOrEqual(OUTCOMES_MIN[name] ?? 0);
      },
      TEST_MS_MAX,
    );

    test(`fuzz: ${name} holds it on all that was ever found`, async () => {
      for (const path of findings(name)) await target.run(inputFromJson(readFileSync(path, "utf8")));
    });
  }

  test("fuzz: a broken invariant is found, made small, and survives its way through a file", async () => {
    const { target, corpus } = TARGETS.get("framer")!;
    const broken = {
      ...target,
      run: (input: unknown) => {
        const { octets } = input as { octets: Uint8Array };
        if (octets.includes(0)) throw new Error("a NUL");
        return ["none"];
      },
    };
    const { finding } = await fuzz(broken, corpus, SEED, { inputs: 5_000 });
    expect(finding?.why).toContain("a NUL");
    const input = inputFromJson(inputToJson(finding?.input)) as { octets: Uint8Array };
    expect(input).toEqual(finding?.input as typeof input);
    expect(input.octets.includes(0)).toBe(true);
  });
});
