// needs programs: cat true
/**
 * `dmq send --spool` and `dmq bcast --spool` as a shell has them: each outcome and exit code with a daemon and its outbox, repeated
 * calls, and nodes that are in no list any more.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Daemon, Daemons, type DeliveryRow, jsonRows } from "../helpers/daemon.ts";
import type { Finished } from "../helpers/process.ts";
import { until } from "../helpers/wait.ts";

const TEST_MS = 60_000;
const [ONE, TWO, THREE] = ["sip:127.0.0.68:5968", "sip:127.0.0.69:5968", "sip:127.0.0.70:5968"];
const [NOBODY, FOUR] = ["sip:127.0.0.71:5968", "sip:127.0.0.72:5968"];
const QUICK = ["--ping-interval", "1s", "--request-timeout", "1s", "--log-level", "error"];

let all: Daemons;
let one: Daemon;

beforeAll(async () => {
  all = new Daemons();
  one = await all.serve("one", ONE, [...QUICK, "--state-dir", join(all.dir, "one")]);
  await all.serve("two", TWO, [...QUICK, "--notification-address", ONE, "--on", "yes=true"]);
  await knows(TWO);
}, TEST_MS);
afterAll(() => all?.endAll());

const knows = (uri: string): Promise<unknown> =>
  until(
    async () => (await one.list()).some((row) => row.uri === uri && row.status === "active"),
    10_000,
    `${uri} is active`,
  );

/** The node that comes and goes, and the bodies that it had of channel `yes` in this life, a line each. */
async function serveThree(life: string): Promise<{ three: Daemon; bodies(): string }> {
  const file = join(all.dir, `${life}.log`);
  writeFileSync(file, "");
  const on = `yes=sh -c "cat >>${file}; echo >>${file}"`;
  const three = await all.serve("three", THREE, [...QUICK, "--notification-address", ONE, "--on", on]);
  return { three, bodies: () => readFileSync(file, "utf8") };
}

const rows: [what: string, args: string[], code: number, out: RegExp, err: RegExp | undefined][] = [
  [
    "send: delivered at once",
    ["send", "--spool", "yes", TWO, "hi"],
    0,
    /^sip:127\.0\.0\.69:5968\t200\tOK\t[\d.]+\n$/,
    undefined,
  ],
  [
    "send: nobody there",
    ["send", "--spool=1m", "yes", NOBODY, "hi"],
    75,
    /^sip:127\.0\.0\.71:5968\t-\tspooled\t/,
    /stored, not delivered yet/,
  ],
  ["send: no such channel there", ["send", "--spool", "none", TWO, "hi"], 3, /\t404\t/, undefined],
  ["send: a time that is none", ["send", "--spool=soon", "yes", TWO, "hi"], 2, /^$/, /--spool=soon/],
  ["send: with --retry", ["send", "--spool", "--retry", "2", "yes", TWO, "hi"], 2, /^$/, /exclude each other/],
  ["bcast: delivered to all", ["bcast", "--spool", "yes", "hi"], 0, /^sip:127\.0\.0\.69:5968\t200\t/, undefined],
  ["bcast: all say 404", ["bcast", "--spool", "none", "hi"], 3, /\t404\t/, undefined],
];

for (const [what, args, code, out, err] of rows)
  test(
    `--spool: ${what}: exit ${code}`,
    async () => {
      const done = await one.run(args);
      expect(done).toMatchObject({ code, stdout: expect.stringMatching(out) });
      if (err === undefined) expect(done.stderr).toBe("");
      else expect(done.stderr).toMatch(err);
    },
    TEST_MS,
  );

test(
  "--spool: a script that repeats exit 75 with one id sends one message, and ends with 0 when it is delivered",
  async () => {
    const again = (): Promise<Finished> =>
      one.run(["send", "--spool=10m", "--timeout", "1s", "--message-id", "job-17", "yes", THREE, "once"]);
    for (let i = 0; i < 3; i++) expect((await again()).code).toBe(75);
    expect((await one.run(["queue", "peek", "outbox", "-n", "9", "--key", THREE])).stdout).toBe(`${THREE}\tonce\n`);
    const { three, bodies } = await serveThree("once");
    await until(async () => (await again()).code === 0, 15_000, "a repetition says that it is delivered");
    const done = await again();
    expect([done.code, done.stderr, bodies()]).toEqual([0, "", "once\n"]);
    await three.end("SIGINT");
  },
  TEST_MS,
);

test(
  "--spool: a broadcast reaches a node that was forgotten meanwhile, in order, once; not one that was removed",
  async () => {
    const { three } = await serveThree("before");
    await knows(THREE);
    await three.end("SIGKILL");
    const isForgotten = async (): Promise<boolean> => !(await one.list()).some(({ uri }) => uri === THREE);
    await until(isForgotten, 30_000, "it is forgotten");
    for (const body of ["a", "b", "c"]) {
      const done = await one.run(["bcast", "--spool=10m", "--timeout", "1s", "--json", "yes", body]);
      expect(done.code).toBe(75);
      const found = jsonRows<DeliveryRow>(done.stdout).map(({ node, outcome }) => [node, outcome]);
      expect(found).toContainEqual([TWO, "delivered"]);
      expect(found).toContainEqual([THREE, "spooled"]);
    }
    const { three: back, bodies } = await serveThree("after");
    await until(() => bodies() === "a\nb\nc\n", 15_000, "it has all three");
    await until(
      async () => (await one.run(["queue", "peek", "outbox", "--key", THREE])).code === 1,
      10_000,
      "none waits",
    );
    expect(bodies()).toBe("a\nb\nc\n");
    await back.end("SIGKILL");
    expect((await one.run(["remove", THREE])).code).toBe(0);
    const rest = await one.run(["bcast", "--spool", "--json", "yes", "d"]);
    expect(jsonRows<DeliveryRow>(rest.stdout).map(({ node }) => node)).toEqual([TWO]);
  },
  TEST_MS,
);

test(
  "--spool: bcast: one said yes and one no: exit 7",
  async () => {
    const four = await all.serve("four", FOUR, [...QUICK, "--notification-address", ONE]);
    await knows(FOUR);
    const done = await one.run(["bcast", "--spool", "--json", "yes", "hi"]);
    expect(done.code).toBe(7);
    const found = jsonRows<DeliveryRow>(done.stdout).map(({ node, outcome, code }) => [node, outcome, code]);
    expect(found.sort()).toEqual([
      [TWO, "delivered", 200],
      [FOUR, "rejected", 404],
    ]);
    await four.end("SIGINT");
  },
  TEST_MS,
);

test(
  "--spool: an outbox that is full and refuses: exit 5, and nothing is stored",
  async () => {
    await one.run(["queue", "clear", "outbox"]);
    expect((await one.run(["queue", "define", "name=outbox;size=1;full=reject"])).code).toBe(0);
    const send = (body: string): Promise<Finished> =>
      one.run(["send", "--spool=1m", "--timeout", "1s", "yes", NOBODY, body]);
    expect((await send("first")).code).toBe(75);
    const refused = await send("second");
    expect(refused).toMatchObject({ code: 5, stderr: expect.stringMatching(/^dmq: [^\n]*outbox is full[^\n]*\n$/) });
    expect((await one.run(["queue", "peek", "outbox", "-n", "9"])).stdout).toBe(`${NOBODY}\tfirst\n`);
  },
  TEST_MS,
);
