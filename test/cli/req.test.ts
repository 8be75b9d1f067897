import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import type { DeliveryResult } from "../../src/rpc/surface.ts";
import { FakeDaemon, type Ran, runCli, type World } from "../helpers/cli.ts";

const NODE = "sip:127.0.0.2:5060";
const OTHER = "sip:127.0.0.3:5060";

let daemon: FakeDaemon;
beforeEach(() => {
  daemon = new FakeDaemon();
});
afterEach(() => daemon.end());

function run(words: string[], world: World = {}): Promise<Ran> {
  return runCli(["req", ...words], { ...world, env: { DMQ_SOCKET: daemon.socket } });
}

function answered(body: string | undefined, part: Partial<DeliveryResult> = {}): DeliveryResult {
  const ok = { outcome: "delivered", code: 200, reason: "OK", ms: 3.4, consumer: true, attempts: 1 } as const;
  const encoded = body === undefined ? {} : { body_base64: Buffer.from(body, "latin1").toString("base64") };
  return { node: NODE, ...ok, tries: 1, message_id: null, ...encoded, ...part };
}

const GONE = { outcome: "timeout", code: null, reason: "no answer", consumer: false } as const;
const CANCELLED = { outcome: "cancelled", code: null, reason: "given up", consumer: false } as const;
const MISSING = { outcome: "rejected", code: 404, reason: "Not Found Peer ID", consumer: false } as const;

describe("req to one node", () => {
  test("asks with Accept and prints the body as it is", async () => {
    daemon.reply = () => ({ result: answered("up\x00\xff") });
    const { code, out, err } = await run(["c", NODE, "q"]);
    // The test's stdout decodes: U+FFFD is the octet that is no UTF-8.
    expect({ code, out, err }).toEqual({ code: 0, out: "up\x00\ufffd", err: "" });
    expect(daemon.calls).toEqual([
      {
        method: "dmq.send",
        params: { channel: "c", node: NODE, body: "q", content_type: "text/plain", accept: "*/*" },
      },
    ]);
  });

  test("--accept says what is wanted", async () => {
    daemon.reply = () => ({ result: answered("{}") });
    await run(["--accept", "application/json", "c", NODE]);
    expect(daemon.calls[0]?.params).toMatchObject({ accept: "application/json", body: "" });
  });

  test("a line end is added on a terminal only, and only where there is none", async () => {
    daemon.reply = () => ({ result: answered("up") });
    expect((await run(["c", NODE])).out).toBe("up");
    expect((await run(["c", NODE], { tty: true })).out).toBe("up\n");
    daemon.reply = () => ({ result: answered("up\n") });
    expect((await run(["c", NODE], { tty: true })).out).toBe("up\n");
  });

  test("2xx without a body is done, and prints nothing", async () => {
    daemon.reply = () => ({ result: answered(undefined) });
    expect(await run(["c", NODE], { tty: true })).toEqual({ code: 0, out: "", err: "" });
  });

  const failures: [part: Partial<DeliveryResult>, options: string[], code: number, err: string][] = [
    [MISSING, [], 3, `dmq: ${NODE}: 404 Not Found Peer ID\n`],
    [GONE, [], 6, `dmq: ${NODE}: no answer\n`],
    [{ outcome: "unreachable", code: null, reason: "ECONNREFUSED" }, [], 4, `dmq: ${NODE}: ECONNREFUSED\n`],
    [
      { code: 202, consumer: false },
      ["--require-consumer"],
      3,
      `dmq: ${NODE}: nobody takes the messages of this channel there\n`,
    ],
  ];
  for (const [part, options, code, err] of failures) {
    test(`${part.code ?? part.outcome} exits ${code}, with nothing on stdout`, async () => {
      daemon.reply = () => ({ result: answered(undefined, part) });
      expect(await run([...options, "c", NODE])).toEqual({ code, out: "", err });
    });
  }

  test("--json has the body as text, or as base64 where it is none", async () => {
    const { body_base64: _, ...rest } = answered("");
    for (const [body, fields] of [
      ["a\n", { body: "a\n" }],
      ["\xff", { body: null, body_base64: "/w==" }],
      [undefined, { body: null }],
    ] as const) {
      daemon.reply = () => ({ result: answered(body) });
      expect(JSON.parse((await run(["--json", "c", NODE])).out)).toEqual({ ...rest, ...fields });
    }
  });

  const wrong: [words: string[], told: string][] = [
    [["c"], "missing argument NODE; --all asks every active node"],
    [["c", NODE, "--replies", "1"], "--replies goes with --all"],
    [["c", NODE, "--require", "any"], "--require goes with --all"],
    [["c", NODE, "--except", OTHER], "--except goes with --all"],
    [["--all", "c", "body", "more"], 'unexpected argument "more"'],
    [["--all", "--replies", "0", "c"], "an integer from 1"],
    [["--accept", "a/b\r\nX: y", "c", NODE], "is no media type"],
    [["-l", "c", NODE], "unknown option -l"],
  ];
  for (const [words, told] of wrong) {
    test(`${JSON.stringify(words)} exits 2`, async () => {
      const { code, out, err } = await run(words);
      expect({ code, out }).toEqual({ code: 2, out: "" });
      expect(err).toContain(told);
      expect(daemon.calls).toEqual([]);
    });
  }
});

describe("req --all", () => {
  test("prints a line for each node with its body escaped, and exits as bcast", async () => {
    const results = [
      answered("a\tb\n"),
      answered("\xff", { node: OTHER }),
      answered(undefined, { ...GONE, node: "sip:x" }),
    ];
    daemon.reply = () => ({ result: results });
    const { code, out, err } = await run(["--all", "c", "q"]);
    expect({ code, err }).toEqual({ code: 7, err: "dmq: sip:x: no answer\n" });
    expect(out.split("\n")).toEqual([
      ...[`${NODE}\t200\tOK\t3\ta\\tb\\n`, `${OTHER}\t200\tOK\t3\t\\xff`, "sip:x\t-\ttimeout\t3\t-", ""],
    ]);
    expect(daemon.calls[0]).toMatchObject({ method: "dmq.bcast", params: { body: "q", accept: "*/*", except: [] } });
    expect(daemon.calls[0]?.params).not.toHaveProperty("replies");
  });

  test("--replies N: N are enough, and those that were given up are no complaint", async () => {
    daemon.reply = () => ({ result: [answered("a"), answered(undefined, { ...CANCELLED, node: OTHER })] });
    const enough = await run(["--all", "--replies", "1", "c"]);
    expect({ code: enough.code, err: enough.err }).toEqual({ code: 0, err: "" });
    expect(daemon.calls[0]?.params).toMatchObject({ replies: 1 });
    expect((await run(["--all", "--replies", "2", "c"])).code).toBe(7);
    expect((await run(["--all", "--replies", "2", "--require", "any", "c"])).code).toBe(0);
  });

  test("on a terminal it is a table with a header, with --json one array", async () => {
    daemon.reply = () => ({ result: [answered("a")] });
    expect((await run(["--all", "c"], { tty: true })).out.split("\n")).toEqual([
      ...["NODE                CODE  REASON  MS  BODY", `${NODE}  200   OK      3   a`, ""],
    ]);
    expect(JSON.parse((await run(["--all", "--json", "c"])).out)).toMatchObject([{ node: NODE, body: "a" }]);
  });

  test("nobody to ask exits 3", async () => {
    daemon.reply = () => ({ result: [] });
    const { code, out, err } = await run(["--all", "c"]);
    expect({ code, out }).toEqual({ code: 3, out: "" });
    expect(err).toContain("no active node");
  });
});
