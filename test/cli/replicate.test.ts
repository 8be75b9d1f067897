import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import type { DeliveryResult } from "../../src/rpc/surface.ts";
import { FakeDaemon, type Ran, runCli, type World } from "../helpers/cli.ts";

const HEAD = "REGISTER sip:a SIP/2.0\nCall-ID: 1";
const WIRE = "REGISTER sip:a SIP/2.0\r\nCall-ID: 1\r\n\r\n";
const OK: DeliveryResult = {
  ...{
    node: "sip:127.0.0.2:5060",
    outcome: "delivered",
    code: 200,
    reason: "OK",
    ms: 3.4,
    consumer: true,
    attempts: 1,
    tries: 1,
    message_id: null,
  },
};
const TIMEOUT: DeliveryResult = { ...OK, outcome: "timeout", code: null, reason: "" };

let daemon: FakeDaemon;
beforeEach(() => {
  daemon = new FakeDaemon();
  daemon.reply = () => ({ result: [OK] });
});
afterEach(() => daemon.end());

function run(line: string[], world: World = {}): Promise<Ran> {
  return runCli(["replicate", ...line], { ...world, env: { DMQ_SOCKET: daemon.socket } });
}

function octets(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text, "latin1"));
}

/** What the daemon was given, as text. */
function given(): string {
  const { params } = daemon.calls[0] as { params: { request_base64: string } };
  return Buffer.from(params.request_base64, "base64").toString("latin1");
}

describe("replicate", () => {
  const forms: [name: string, input: string, output: string][] = [
    ["what has CRLF goes as it is", `${WIRE}a\nb\r\n`, `${WIRE}a\nb\r\n`],
    [
      "plain line ends of the headers are mended, and the body is not touched",
      `${HEAD}\n\na\nb\xff`,
      `${WIRE}a\nb\xff`,
    ],
    ["the empty line may be missing at the end", `${HEAD}\n`, WIRE],
    ["what is no message goes as it is: the daemon says why it is none", "hello", "hello"],
  ];
  for (const [name, input, output] of forms)
    test(`replicate: ${name}`, async () => {
      expect(await run([], { stdin: octets(input) })).toEqual({
        code: 0,
        out: "sip:127.0.0.2:5060\t200\tOK\t3\n",
        err: "",
      });
      expect(daemon.calls[0]?.method).toBe("dmq.replicate");
      expect(given()).toBe(output);
    });

  test("replicate: - is standard input, and a timeout is handed over in milliseconds", async () => {
    await run(["--timeout", "2s", "-"], { stdin: octets(WIRE) });
    expect(daemon.calls[0]?.params).toMatchObject({ timeout_ms: 2_000 });
  });

  const ends: [name: string, results: DeliveryResult[], options: string[], code: number][] = [
    ["all said 2xx", [OK, OK], [], 0],
    ["one did not", [OK, TIMEOUT], [], 7],
    ["one did not, and any will do", [OK, TIMEOUT], ["--require", "any"], 0],
    ["nobody did", [TIMEOUT], [], 6],
    ["nobody is there", [], [], 3],
  ];
  for (const [name, results, options, code] of ends)
    test(`replicate: exits ${code} if ${name}`, async () => {
      daemon.reply = () => ({ result: results });
      expect((await run(options, { stdin: octets(WIRE) })).code).toBe(code);
    });

  const wrong: [name: string, line: string[], stdin: string, says: string][] = [
    ["nothing on standard input", [], "", "no SIP request: nothing came"],
    ["a file that is not there", ["/nonexistent/x.sip"], "", "cannot read /nonexistent/x.sip (ENOENT)"],
    ["two files", ["a", "b"], "", "unexpected"],
    ["a requirement that is none", ["--require", "0"], WIRE, "--require"],
  ];
  for (const [name, line, stdin, says] of wrong)
    test(`replicate: ${name} exits 2 and calls nobody`, async () => {
      const { code, err } = await run(line, { stdin: octets(stdin) });
      expect([code, daemon.calls.length]).toEqual([2, 0]);
      expect(err).toContain(says);
    });

  test("replicate: what the daemon refuses exits 2 with its reason", async () => {
    const error = { code: 500, message: "no SIP request: 0 From headers", data: { exit: 2 } };
    daemon.reply = () => ({ error });
    expect(await run([], { stdin: octets(WIRE) })).toEqual({ code: 2, out: "", err: `dmq: ${error.message}\n` });
  });
});
