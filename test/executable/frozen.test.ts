/**
 * A broadcast of the compiled executable to three others of which one answers, one refuses and one is frozen (SIGSTOP), over the
 * control socket: what is said of each, and in which time. What happens to a message that a node gets twice because of that.
 */
// needs programs: bash cat env false head sleep tr true wc
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type Daemon, Daemons } from "../helpers/daemon.ts";
import { describeWhere, missingPrograms } from "../helpers/needs.ts";
import { until } from "../helpers/wait.ts";

interface Row {
  node: string;
  outcome: string;
  code: number | null;
  tries: number;
  attempts: number;
  message_id: string | null;
}

const SETUP_MS = 30_000;
const CHANNEL = "alerts";
/** What may come on top of a time limit. */
const LATE = 1.1;

const daemons = new Daemons();
let sender: Daemon;
let answering: Daemon;
let refusing: Daemon;
let frozen: Daemon;
const seen = join(daemons.dir, "seen");

/** A port that was free a moment ago: the executable wants a server address that others can be told. */
async function freeAddress(): Promise<string> {
  const socket = await Bun.udpSocket({ hostname: "127.0.0.1", port: 0 });
  const port = socket.port;
  socket.close();
  return `sip:127.0.0.1:${port}`;
}

async function call<T>(method: string, params: object): Promise<{ result: T; ms: number }> {
  const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method, params });
  const at = performance.now();
  const response = await fetch("http://dmq/rpc", { method: "POST", body, unix: sender.socket });
  const { result } = (await response.json()) as { result: T };
  return { result, ms: performance.now() - at };
}

function rowOf(rows: readonly Row[], daemon: Daemon): Row | undefined {
  return rows.find(({ node }) => node === daemon.uri);
}

beforeAll(async () => {
  const log = ["--log-level", "warn", "--ping-interval", "3600"];
  sender = await daemons.serve("sender", await freeAddress(), log);
  const known = [...log, "--notification-address", sender.uri];
  const noted = `sh -c 'echo "$DMQ_MESSAGE_ID" >>${seen}'`;
  [answering, refusing, frozen] = await Promise.all([
    daemons.serve("answering", await freeAddress(), [...known, "--on", `${CHANNEL}=true`, "--on", "cron=true"]),
    daemons.serve("refusing", await freeAddress(), [...known, "--on", "cron=false"]),
    daemons.serve("frozen", await freeAddress(), [...known, "--on", `${CHANNEL}=${noted}`]),
  ]);
  const active = async (): Promise<boolean> =>
    (await sender.list()).filter((row) => row.status === "active").length === 4;
  await until(active, 8_000, "all know each other");
}, SETUP_MS);

afterAll(() => daemons.endAll(), SETUP_MS);

describeWhere(missingPrograms("sh", "true"), "one answers, one refuses, one is frozen", () => {
  test(
    "frozen: each has its own outcome, within the time and a tenth of it",
    async () => {
      const { pid } = await frozen.status();
      process.kill(pid, "SIGSTOP");
      try {
        const params = { channel: CHANNEL, body: "wake up", timeout_ms: 1_500 };
        const { result, ms } = await call<Row[]>("dmq.bcast", params);
        expect(result.length).toBe(3);
        expect(rowOf(result, answering)).toMatchObject({ outcome: "delivered", code: 200, tries: 1, message_id: null });
        expect(rowOf(result, refusing)).toMatchObject({ outcome: "rejected", code: 404 });
        expect(rowOf(result, frozen)).toMatchObject({ outcome: "timeout", code: null });
        expect(ms).toBeLessThan(params.timeout_ms * LATE);
      } finally {
        process.kill(pid, "SIGCONT");
      }
    },
    SETUP_MS,
  );

  test(
    "frozen: dmq bcast says so of each, exits 7 with --require all and 0 with --require any, in time",
    async () => {
      const { pid } = await frozen.status();
      process.kill(pid, "SIGSTOP");
      try {
        for (const [require, code] of [
          ["all", 7],
          ["any", 0],
        ] as const) {
          // The silence of before made it inactive.
          expect((await sender.run(["set", frozen.uri, "active"])).code).toBe(0);
          const at = performance.now();
          const done = await sender.run(["bcast", "--timeout", "1500ms", "--require", require, "cron", "wake up"]);
          const ms = performance.now() - at;
          const lines = done.stdout.trimEnd().split("\n").sort();
          const expected = [`${answering.uri}\t200\tOK`, `${refusing.uri}\t500\t`, `${frozen.uri}\t-\ttimeout`].sort();
          expect(lines.length).toBe(3);
          for (const [index, line] of lines.entries()) expect(line).toStartWith(expected[index] as string);
          // On success a cron job has nothing to mail.
          const cause = `dmq: ${frozen.uri}: no answer in time: it may or may not have happened there\n`;
          expect({ code: done.code, stderr: done.stderr }).toEqual({ code, stderr: code === 0 ? "" : cause });
          expect(ms).toBeLessThan(1_500 * LATE);
          console.log(`--require ${require}: exit ${done.code} in ${Math.round(ms)} ms`);
        }
      } finally {
        process.kill(pid, "SIGCONT");
      }
    },
    SETUP_MS,
  );

  test(
    "frozen: who comes round gets the message a second time, and can tell by its id",
    async () => {
      const { pid } = await frozen.status();
      const { requestsSent = 0 } = (await sender.status()).counters;
      process.kill(pid, "SIGSTOP");
      const params = {
        channel: CHANNEL,
        node: frozen.uri,
        body: "again",
        timeout_ms: 20_000,
        retry: 7,
        message_id: "id-1",
      };
      const sending = call<Row>("dmq.send", params);
      try {
        // The first try, and what follows when it has timed out: the second one.
        const isRepeated = async (): Promise<boolean> =>
          ((await sender.status()).counters.requestsSent ?? 0) >= requestsSent + 2;
        await until(isRepeated, 10_000, "the message was sent again");
      } finally {
        process.kill(pid, "SIGCONT");
      }
      const { result } = await sending;
      expect(result).toMatchObject({ outcome: "delivered", code: 200, message_id: "id-1" });
      expect(result.tries).toBeGreaterThanOrEqual(2);
      const ids = (): string[] => (existsSync(seen) ? readFileSync(seen, "utf8").split("\n").slice(0, -1) : []);
      const twice = async (): Promise<boolean> => ids().filter((id) => id === "id-1").length >= 2;
      await until(twice, 5_000, "both arrived");
    },
    SETUP_MS,
  );
});
