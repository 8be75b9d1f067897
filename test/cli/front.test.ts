import { describe, expect, test } from "bun:test";
import { type CommandSpec, parseWords } from "../../src/cli/command.ts";
import { ALL_COMMANDS } from "../../src/cli/tree.ts";
import { runCli } from "../helpers/cli.ts";

/** Nothing listens there: a command that gets through the front ends with 4. */
const NOWHERE = { env: { DMQ_SOCKET: "/nonexistent/dmq.sock" } };

describe("usage errors exit 2 and name the nearest right word", () => {
  const cases: [line: string[], told: string][] = [
    [["sned"], 'unknown command "sned"; did you mean send?'],
    [["quux"], 'unknown command "quux"; there are serve, send'],
    [["constructor"], 'unknown command "constructor"'],
    [["--sockt", "x", "list"], "unknown option --sockt; did you mean --socket?"],
    [["--json", "list"], "options of a command stand behind its name"],
    [["send", "--tiemout", "5", "c", "sip:a"], "unknown option --tiemout; did you mean --timeout?"],
    [["send", "--vie", "sip:a", "c", "sip:a"], "unknown option --vie"],
    [["listen", "--exec", "no-such-program", "c"], 'the program "no-such-program" is not there; looked for in PATH'],
    [["listen", "--exec", "", "c"], "names no program"],
    [["listen", "--exec", "'x", "c"], "is not closed"],
    [["listen", "--exec", "true", "--reply", "x", "c"], "--exec and --reply exclude each other"],
    [["listen", "--exec", "true", "--status", "500", "c"], "--status and --exec exclude each other"],
    [["listen", "--status", "500", "c"], "need --exec, --reply or --reply-file"],
    [["listen", "--reply", "x", "--status", "408", "c"], "from 200 to 699, and not 408"],
    [["listen", "--reply", "x", "--status", "199", "c"], "from 200 to 699, and not 408"],
    [["listen", "--reply", "x", "-T", "a/b\r\nX: y", "c"], "is no media type"],
    [["listen", "--reply-file", "missing", "c"], "--reply-file missing: no missing"],
    [["listen", "a\nb"], "letters, digits"],
    [["listen", "a\u0000"], "letters, digits"],
    [["listen", ""], "letters, digits"],
    [["wait", "channel=a b"], "letters, digits"],
    [["wait"], "missing argument CONDITION"],
    [["wait", "members"], '"members" is no condition: ready, members=N'],
    [["wait", "member=3"], "is no condition"],
    [["wait", "members=0"], "expected a number from 1 to 1001"],
    [["wait", "members=x"], "expected a number from 1"],
    [["wait", "node="], "is no condition"],
    [["wait", "node=127.0.0.1:5060"], "did you mean sip:127.0.0.1:5060?"],
    [["wait", "node=sip:a\r\nb"], "is no SIP URI"],
    [["wait", "--timeout", "soon", "ready"], "expected a duration"],
    [["ping", "127.0.0.1:5060"], "did you mean sip:127.0.0.1:5060?"],
    [["ping", "-c", "0"], "an integer from 1"],
    [["ping", "-i", "10ms"], "expected a duration from 100ms"],
    [["ping", "--timeout", "2h"], "expected at most 1h"],
    [["events", "--type", "peer-upp"], "did you mean peer-up?"],
    [["events", "--type", "\u001b"], "expected one of joined, peer-up"],
    [["events", "extra"], 'unexpected argument "extra"'],
    [["logs", "--level", "warm"], "did you mean warn?"],
    [["logs", "-n", "-1"], "-n needs a value"],
    [["list", "--watch", "--via", "sip:127.0.0.1:5060"], "--watch and --via exclude each other"],
    [["send", "-x", "c", "sip:a"], "unknown option -x"],
    [["list", "-json"], "unknown option -json; did you mean --json?"],
    [["list", "--json=1"], "--json takes no value"],
    [["list", "--no-json"], "unknown option --no-json"],
    [["list", "--json", "--json"], "--json is given twice"],
    [["list", "extra"], 'unexpected argument "extra"'],
    [["list", "--", "--json"], 'unexpected argument "--json"'],
    [["send"], "missing argument CHANNEL: dmq send [options] CHANNEL NODE [BODY]"],
    [["send", "c"], "missing argument NODE"],
    [["send", "c", "sip:a", "b", "d"], 'unexpected argument "d"'],
    [["send", "c", "sip:a", "--timeout"], "--timeout needs a value: --timeout DURATION"],
    [["send", "--timeout", "--json", "c", "sip:a"], "--timeout needs a value"],
    [["send", "--timeout=soon", "c", "sip:a"], '--timeout "soon": expected a duration'],
    [["send", "--timeout=0", "c", "sip:a"], '--timeout "0": expected a duration'],
    [["send", "--timeout=2h", "c", "sip:a"], '--timeout "2h": expected a duration'],
    [["send", "--max-forwards=256", "c", "sip:a"], "an integer from 0 to 255"],
    [["send", "-T", "text", "c", "sip:a"], "is no media type"],
    [["send", "-T", "text/plain\r\nX: y", "c", "sip:a"], "is no media type"],
    [["send", "a b", "sip:a"], "letters, digits"],
    [["send", "c\r\nX: y", "sip:a"], "letters, digits"],
    [["send", "", "sip:a"], "letters, digits"],
    [["send", "c", "127.0.0.1:5060"], "did you mean sip:127.0.0.1:5060?"],
    [["send", "c", "sip:a\r\nX: y"], "is no SIP URI"],
    [["send", "--retry", "11", "c", "sip:a"], "an integer from 0 to 10"],
    [["send", "--retry=-1", "c", "sip:a"], "an integer from 0 to 10"],
    [["send", "--message-id", "a b", "c", "sip:a"], "visible ASCII"],
    [["send", "--message-id", "a\r\nX: y", "c", "sip:a"], "visible ASCII"],
    [["send", "--message-id", "", "c", "sip:a"], "visible ASCII"],
    [["send", "c", "sip:a", "-5"], "unknown option -5; a BODY that begins with - goes behind --"],
    [["send", "c", "sip:a", "--- cut ---"], "a BODY that begins with - goes behind --"],
    [["send", "c", "sip:a", "caf\ufffd"], "no UTF-8"],
    [["send", "c\0", "sip:a"], "letters, digits"],
    [["send", "c", "sip:a\0"], "is no SIP URI"],
    [["x".repeat(1_048_576)], "unknown command"],
    [["list", "x".repeat(1_048_576)], "unexpected argument"],
    [["send", `--${"x".repeat(1_048_576)}`], "unknown option"],
    [["send", "--a\u001b[2J"], 'unknown option "--a\\u001b[2J"'],
    [["send", "x".repeat(1_048_576), "sip:a"], "letters, digits"],
    [["send", "c", `sip:${"x".repeat(1_048_576)}`], "is no SIP URI"],
    [["bcast", "--require", "x".repeat(1_048_576), "c"], "expected all, any"],
    [["send", "-f", "missing", "c", "sip:a"], "cannot read missing (ENOENT)"],
    [["send", "-f", "x", "c", "sip:a", "body"], "exclude each other"],
    [["bcast", "--require", "0", "c"], "expected all, any, a number from 1, or 1% to 100%"],
    [["bcast", "--require", "101%", "c"], "expected all, any"],
    [["bcast", "--require", "most", "c"], "expected all, any"],
    [["bcast", "--except", "node2", "c"], "did you mean sip:node2?"],
    [["listen"], "missing argument CHANNEL: dmq listen [options] CHANNEL..."],
    [["listen", "-n", "0", "c"], "an integer from 1"],
    [["listen", "-W", "x", "c"], "expected a duration"],
    [["add"], "missing argument URI"],
    [["add", "nowhere"], "did you mean sip:nowhere?"],
    [["join"], "missing argument URI"],
    [["set", "sip:a", "activ"], 'unknown status "activ"; did you mean active?'],
    [["set", "sip:a", "quux"], "expected active, not_active, disabled"],
    [["rpc", "m", "{"], "not JSON"],
    [["rpc", "m", "5"], "expected a JSON array or object"],
    [["serve", "--ping-intervall", "5"], "did you mean --ping-interval?"],
    [["serve", "extra"], 'unexpected argument "extra"'],
    [["-s"], "-s needs a value"],
  ];
  for (const [line, told] of cases) {
    test(JSON.stringify(line).slice(0, 120), async () => {
      const { code, out, err } = await runCli(line, NOWHERE);
      expect(err).toContain(told);
      expect(err.length).toBeLessThan(1_000);
      expect(err.trim().split("\n")).toHaveLength(1);
      expect({ code, out }).toEqual({ code: 2, out: "" });
    });
  }

  for (const channel of ["notification_peer", "htable", "usrloc", "dialog", "presence", "rtpengine"]) {
    test(`${channel} is closed without --force`, async () => {
      for (const line of [
        ["send", channel, "sip:a"],
        ["bcast", channel],
      ]) {
        const closed = await runCli(line, NOWHERE);
        expect(closed.code).toBe(2);
        expect(closed.err).toContain("can crash it; --force sends it all the same");
        expect((await runCli([...line, "--force"], NOWHERE)).code).toBe(4);
      }
    });
  }
});

describe("options of serve that are wrong exit 9", () => {
  const cases: [line: string[], told: string][] = [
    [["--ping-interval", "0"], '--ping-interval: got "0", expected seconds'],
    [["--log-json=maybe"], '--log-json: got "maybe", expected 0 or 1'],
    [["--config", "/nonexistent/dmq.toml"], "/nonexistent/dmq.toml (ENOENT)"],
    [["--multi-notify", "--notification-address=sip:a", "--notification-address=sip:b"], "2 notification addresses"],
  ];
  for (const [line, told] of cases) {
    test(line.join(" "), async () => {
      const { code, out, err } = await runCli(["serve", ...line], NOWHERE);
      expect(err).toContain(told);
      expect({ code, out }).toEqual({ code: 9, out: "" });
    });
  }
});

describe("help", () => {
  test("of every command is on stdout, starts with examples, and exits 0", async () => {
    for (const name of ALL_COMMANDS.keys()) {
      for (const line of [
        [name, "--help"],
        ["help", name],
        [name, "--nonsense", "-h"],
      ]) {
        const { code, out, err } = await runCli(line, NOWHERE);
        expect({ code, err }).toEqual({ code: 0, err: "" });
        expect(out.indexOf("examples:")).toBeGreaterThan(0);
        expect(out.indexOf("examples:")).toBeLessThan(out.indexOf("usage: dmq"));
        expect(out).toContain(`usage: dmq ${name}`);
      }
    }
  });

  test("of dmq itself names every command", async () => {
    for (const line of [["--help"], ["-h"], ["help"]]) {
      const { code, out, err } = await runCli(line);
      expect({ code, err }).toEqual({ code: 0, err: "" });
      for (const name of ALL_COMMANDS.keys()) expect(out).toContain(`\n  ${name} `);
    }
  });

  test("without a command it is a usage error on stderr", async () => {
    const { code, out, err } = await runCli([]);
    expect({ code, out }).toEqual({ code: 2, out: "" });
    expect(err).toContain("commands:");
  });

  test("docs/CLI.md has a heading for every command, and no other one", async () => {
    const text = await Bun.file(new URL("../../docs/CLI.md", import.meta.url)).text();
    const headings = [...text.matchAll(/^### `dmq ([a-z]+)/gm)].map((match) => match[1] as string);
    expect(headings.sort()).toEqual([...ALL_COMMANDS.keys()].sort());
  });
});

describe("words", () => {
  const spec: CommandSpec = {
    name: "x",
    summary: "",
    examples: [],
    positionals: [{ name: "A", required: false, repeatable: true, help: "" }],
    options: [
      { flag: "count", short: "n", value: "N", help: "" },
      { flag: "except", value: "NODE", repeatable: true, help: "" },
      { flag: "json", help: "" },
      { flag: "remove", settable: true, help: "" },
    ],
    run: () => Promise.resolve(0),
  };

  const cases: [words: string[], values: Record<string, string[]>, positionals: string[]][] = [
    [["a", "-n", "5", "b"], { count: ["5"] }, ["a", "b"]],
    [["-n5"], { count: ["5"] }, []],
    [["-n=5"], { count: ["5"] }, []],
    [["--count=5"], { count: ["5"] }, []],
    [["--count="], { count: [""] }, []],
    [["--count=-5"], { count: ["-5"] }, []],
    [["--count=a=b"], { count: ["a=b"] }, []],
    [["--count", "-"], { count: ["-"] }, []],
    [["--except", "a", "--except=b"], { except: ["a", "b"] }, []],
    [["-", "--json"], { json: ["1"] }, ["-"]],
    [["--", "--json", "-n", "--"], {}, ["--json", "-n", "--"]],
    [["--remove"], { remove: ["1"] }, []],
    [["--remove=0"], { remove: ["0"] }, []],
    [["--no-remove"], { remove: ["0"] }, []],
    [["--", "--help"], {}, ["--help"]],
  ];
  for (const [words, values, positionals] of cases) {
    test(JSON.stringify(words), () => {
      const parsed = parseWords(spec, words);
      if (parsed.type !== "run") throw new Error("help");
      expect(Object.fromEntries(parsed.args.values)).toEqual(values);
      expect(parsed.args.positionals).toEqual(positionals);
    });
  }
});
