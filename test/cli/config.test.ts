import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CONFIG_OPTIONS, environmentOf, flagOf } from "../../src/config/schema.ts";
import { runCli } from "../helpers/cli.ts";

const dir = mkdtempSync(join(tmpdir(), "dcfg-"));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

function file(name: string, content: string): string {
  const path = join(dir, name);
  writeFileSync(path, content);
  return path;
}

/** No file of this machine. */
const EMPTY = file("empty.toml", "");

interface Row {
  option: string;
  value: unknown;
  from: string;
}

async function shown(args: string[], env: Record<string, string> = {}): Promise<Map<string, Row>> {
  const ran = await runCli(["config", "show", "--json", ...args], { env });
  expect([ran.code, ran.err]).toEqual([0, ""]);
  return new Map((JSON.parse(ran.out) as Row[]).map((row) => [row.option, row]));
}

describe("config show", () => {
  test("a row for each option: its value in the file's unit, and where it is from", async () => {
    const path = file("a.toml", 'ping_interval = 30\nhandler_timeout = "500ms"\nworker_usleep = 5000\nwindow = 7\n');
    const rows = await shown(["--config", path, "--window", "9"], {
      DMQ_PING_INTERVAL: "20",
      DMQ_SOCKET: "/run/x.sock",
    });
    expect([...rows.keys()]).toEqual(CONFIG_OPTIONS.map(({ name }) => name));
    const found = [
      "ping_interval",
      "handler_timeout",
      "worker_usleep",
      "window",
      "socket",
      "num_workers",
      "tls_key",
      "channel",
    ];
    expect(found.map((name) => [rows.get(name)?.value, rows.get(name)?.from])).toEqual([
      [20, "DMQ_PING_INTERVAL"],
      [0.5, path],
      [5_000, path],
      [9, "--window"],
      ["/run/x.sock", "DMQ_SOCKET"],
      [2, "default"],
      [null, "default"],
      [[], "default"],
    ]);
  });

  test("every option by flag, by variable and by file has the same value", async () => {
    for (const option of CONFIG_OPTIONS) {
      const text = option.type === "boolean" ? "1" : (option.example ?? option.default ?? "");
      const toml = option.type === "integer" || option.type === "boolean" ? text : JSON.stringify(text);
      const path = file("one.toml", `${option.name} = ${option.repeatable ? `[${toml}]` : toml}\n`);
      const places = [
        await shown(["--config", EMPTY, `--${flagOf(option)}=${text}`]),
        await shown(["--config", EMPTY], { [environmentOf(option)]: text }),
        await shown(["--config", path]),
      ].map((rows) => rows.get(option.name) as Row);
      expect(places.map(({ from }) => from)).toEqual([`--${flagOf(option)}`, environmentOf(option), path]);
      expect(places[0]?.value).not.toBeNull();
      expect(new Set(places.map(({ value }) => JSON.stringify(value))).size).toBe(1);
    }
  });

  test("what nobody says is where the environment leads: RUNTIME_DIRECTORY and STATE_DIRECTORY, of lists the first", async () => {
    const rows = await shown(["--config", EMPTY], {
      RUNTIME_DIRECTORY: "/run/a:/run/b",
      STATE_DIRECTORY: "/var/lib/a:/b",
    });
    expect(rows.get("socket")?.value).toBe("/run/a/dmq.sock");
    expect(rows.get("state_dir")?.value).toBe("/var/lib/a");
  });

  test("passwords of brokers are not shown, in no form", async () => {
    const urls = "amqp://user:secret@192.0.2.1/,zone=b;amqp://u:secret@192.0.2.2";
    const rows = await shown(["--config", EMPTY], { DMQ_AMQP_URL: urls });
    const value = ["amqp://user:***@192.0.2.1/", "zone=b;amqp://u:***@192.0.2.2"];
    expect(rows.get("amqp")).toEqual({ option: "amqp", value, from: "DMQ_AMQP_URL" });
    expect((await runCli(["config", "show", EMPTY, "--amqp", urls], { tty: true })).out).not.toContain("secret");
  });

  test("a table on a terminal, tabs in a pipe", async () => {
    const { out } = await runCli(["config", "show", EMPTY], { tty: true });
    expect(out.split("\n")[0]).toMatch(/^OPTION +VALUE +FROM$/);
    const plain = await runCli(["config", "show", EMPTY, "--channel", "a", "--channel", "b"]);
    expect(plain.out).toContain("\nping_interval\t60\tdefault\n");
    expect(plain.out).toContain("\nchannel\ta, b\t--channel\n");
  });
});

describe("config check", () => {
  const RIGHT = file("right.toml", 'server_address = "sip:10.0.2.1:5060"\n');

  test("a right file is silent in a pipe, and a word on a terminal", async () => {
    expect(await runCli(["config", "check", RIGHT])).toEqual({ code: 0, out: "", err: "" });
    expect((await runCli(["config", "check", RIGHT], { tty: true })).err).toBe(`${RIGHT} is right\n`);
  });

  const wrong: [what: string, content: string, says: string[]][] = [
    ["an unknown key", "ping_intervall = 3\n", ["ping_intervall", "did you mean ping_interval?"]],
    ["a value out of bounds", "ping_interval = 0\n", ["ping_interval", "got 0", "from 1s to 86400s"]],
    ["a wrong choice", 'log_level = "inof"\n', ["log_level", '"inof"', "did you mean info?"]],
    [
      "a contradiction",
      'multi_notify = 1\nnotification_address = ["sip:a.example", "sip:b.example"]\n',
      ["multi_notify"],
    ],
    ["no TOML", "ping_interval =\n", ["expected TOML"]],
    ["a command that is not there", 'on = ["a=no-such-program-here"]\n', ["on a", "no-such-program-here"]],
    [
      "a TLS file that is not there",
      'tls_cert = "/nowhere/a.pem"\ntls_key = "/nowhere/a.key"\n',
      ["tls_cert", "/nowhere/a.pem"],
    ],
  ];
  test.each(wrong)("%s is exit 9 with the key, what was seen and what is allowed", async (_what, content, says) => {
    const path = file("wrong.toml", `${content}server_address = "sip:10.0.2.1:5060"\n`);
    const { code, out, err } = await runCli(["config", "check", path]);
    expect([code, out]).toEqual([9, ""]);
    expect(err).toStartWith("dmq: ");
    expect(err.trim().split("\n")).toHaveLength(1);
    for (const word of says) expect(err).toContain(word);
  });

  const MANY = [
    ...['server_address = "nonsense"', "ping_intervall = 3", 'log_level = "inof"', "window = 0"],
    ...['queue = ["jobs", "bad name"]', "[tls]", 'certificate = "x"'],
  ].join("\n");

  test("all mistakes are told at once, each on its line", async () => {
    const { code, out, err } = await runCli(["config", "check", file("many.toml", MANY)]);
    expect([code, out]).toEqual([9, ""]);
    const lines = err.trim().split("\n");
    for (const line of lines) expect(line).toStartWith("dmq: ");
    for (const word of ["server_address", "ping_intervall", "inof", "window", "certificate"])
      expect(lines.filter((line) => line.includes(word))).toHaveLength(1);
  });

  test("so are those that only a start would see: handlers, queues, links, paths, TLS files", async () => {
    const path = file(
      "start.toml",
      [
        ...['server_address = "sip:10.0.2.1:5060"', 'on = ["a=no-such-program-1", "b=sh", "c=no-such-program-2"]'],
        ...['queue = ["name=jobs;max=many", "name=fine"]', 'link = ["a -> nothing:x"]', 'rpc_group = "no-such-group"'],
        ...['rpc_fifo_reply_dir = "/nowhere"', 'tls_cert = "/nowhere/a.pem"', 'tls_key = "/nowhere/a.key"'],
      ].join("\n"),
    );
    const { code, err } = await runCli(["config", "check", path]);
    expect(code).toBe(9);
    const found = err.trim().split("\n");
    for (const word of ["program-1", "program-2", '"max"', "link: got", "no-such-group", "no rpc_fifo", "a.pem"])
      expect(found.filter((line) => line.includes(word))).toHaveLength(1);
    expect(found).toHaveLength(7);
  });

  test("values that are right alone, and not together, are one mistake", async () => {
    const path = file(
      "twice.toml",
      'server_address = "sip:10.0.2.1:5060"\nqueue = ["name=one", "name=twice", "name=twice;size=1"]\n',
    );
    const { code, err } = await runCli(["config", "check", path]);
    expect([code, err]).toEqual([9, "dmq: queue twice: got it twice, expected it once\n"]);
  });

  test("a file of nothing but mistakes is told of in part", async () => {
    const path = file("endless.toml", Array.from({ length: 20_000 }, (_, i) => `wrong${i} = 1`).join("\n"));
    const { code, err } = await runCli(["config", "check", path]);
    expect([code, err.trim().split("\n").length]).toEqual([9, 50]);
  });

  test("--json: one object, whatever comes out, and nothing beside it", async () => {
    const warned = file("warn.toml", 'server_address = "sip:10.0.2.1:5060"\nping_interval = 2\n');
    const right = await runCli(["config", "check", "--json", warned]);
    expect([right.code, right.err]).toEqual([0, ""]);
    expect(JSON.parse(right.out)).toMatchObject({ file: warned, mistakes: [], warnings: [expect.any(String)] });
    const wrong = await runCli(["config", "check", "--json", file("many.toml", MANY)]);
    expect([wrong.code, wrong.err]).toEqual([9, ""]);
    const { mistakes } = JSON.parse(wrong.out) as { mistakes: { code: string; option: string }[] };
    expect(mistakes[0]).toMatchObject({ code: "config-unknown-key", received: "the unknown key certificate in [tls]" });
    expect(mistakes.map(({ code }) => code)).toContain("config-invalid-value");
    expect(mistakes.length).toBeGreaterThan(4);
  });

  test("a file that is not there is exit 9", async () => {
    const { code, err } = await runCli(["config", "check", join(dir, "none.toml")]);
    expect(code).toBe(9);
    expect(err).toContain("ENOENT");
  });

  test("warnings are said, and change no exit code", async () => {
    const path = file("warn.toml", 'server_address = "sip:10.0.2.1:5060"\nping_interval = 2\n');
    const { code, err } = await runCli(["config", "check", path]);
    expect(code).toBe(0);
    expect(err).toMatch(/^dmq: warning: ping_interval 2 s is short/);
  });
});

describe("config init", () => {
  test("the file is right as it is, and names every option once", async () => {
    const { code, out, err } = await runCli(["config", "init"]);
    expect([code, err]).toEqual([0, ""]);
    const keys = out.split("\n").flatMap((line) => /^#([a-z_]+) = /.exec(line)?.[1] ?? []);
    expect(keys).toEqual(CONFIG_OPTIONS.map(({ name }) => name));
    expect(out.split("\n").filter((line) => line !== "" && !line.startsWith("#"))).toEqual([]);
  });

  test("each option switched on alone is right, and those with a default have it", async () => {
    const { out } = await runCli(["config", "init"]);
    const standard = await shown([EMPTY]);
    for (const option of CONFIG_OPTIONS) {
      const line = out.split("\n").find((one) => one.startsWith(`#${option.name} = `)) as string;
      const rows = await shown(["--config", file("on.toml", `${line.slice(1)}\n`)]);
      if (option.default !== undefined) expect(rows.get(option.name)?.value).toEqual(standard.get(option.name)?.value);
      expect(rows.get(option.name)?.from).toBe(join(dir, "on.toml"));
    }
  });

  test("--output makes a file, and leaves one alone that is there, also behind a link", async () => {
    const path = join(dir, "new.toml");
    expect(await runCli(["config", "init", "--output", path])).toEqual({ code: 0, out: "", err: "" });
    expect(readFileSync(path, "utf8")).toBe((await runCli(["config", "init"])).out);
    writeFileSync(path, "mine");
    const again = await runCli(["config", "init", "--output", path]);
    expect([again.code, again.err]).toEqual([1, `dmq: ${path}: it exists and is left as it is\n`]);
    expect(readFileSync(path, "utf8")).toBe("mine");
    const target = join(dir, "target");
    symlinkSync(target, join(dir, "link"));
    expect((await runCli(["config", "init", "--output", join(dir, "link")])).code).toBe(1);
    expect(existsSync(target)).toBe(false);
    expect((await runCli(["config", "init", "--output", join(dir, "no", "where")])).err).toContain("ENOENT");
  });
});

describe("usage", () => {
  const cases: [args: string[], says: string][] = [
    [[], "missing argument show|check|init"],
    [["shwo"], "did you mean show?"],
    [["show", "a", "b"], 'unexpected argument "b"'],
    [["show", "a", "--config", "b"], "given twice"],
    [["check", "--output", "x"], "--output belongs to dmq config init"],
    [["init", "x"], "--output FILE names a new one"],
    [["check", "--plain"], "--plain belongs to dmq config show, not to check"],
    [["init", "--json"], "--json belongs to dmq config show and check, not to init"],
    [["init", "--ping-interval", "5"], "--ping-interval belongs to dmq config show and check"],
    [["check", "--ping-intervall", "1"], "did you mean --ping-interval?"],
  ];
  test.each(cases)("%j", async (args, says) => {
    const { code, out, err } = await runCli(["config", ...args]);
    expect([code, out]).toEqual([2, ""]);
    expect(err).toContain(says);
  });
});
