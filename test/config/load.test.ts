import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type LoadedConfig, loadConfig } from "../../src/config/load.ts";
import { CONFIG_OPTIONS, type DmqConfig, environmentOf, flagOf } from "../../src/config/schema.ts";
import { ConfigError } from "../../src/core/errors.ts";

const FOLDER = mkdtempSync(join(tmpdir(), "dmq-config-"));
afterAll(() => rmSync(FOLDER, { recursive: true }));

/** A folder without a configuration, so that a file of this machine cannot answer. */
const EMPTY = join(FOLDER, "empty.toml");
writeFileSync(EMPTY, "");

interface Given {
  flags?: Record<string, string[]>;
  env?: Record<string, string>;
  toml?: string;
}

let files = 0;

function load({ flags = {}, env = {}, toml }: Given): LoadedConfig {
  const file = toml === undefined ? EMPTY : join(FOLDER, `${++files}.toml`);
  if (toml !== undefined) writeFileSync(file, toml);
  return loadConfig({ flags: new Map(Object.entries(flags)), env, file });
}

function failure(given: Given): ConfigError {
  try {
    load(given);
  } catch (error) {
    if (error instanceof ConfigError) return error;
    throw error;
  }
  throw new Error("it was accepted");
}

describe("defaults", () => {
  test("are Kamailio's where it has the option, and ours elsewhere", () => {
    expect(load({}).config).toEqual({
      serverAddress: "sip:127.0.0.1:5060",
      serverSockets: [],
      notificationAddresses: [],
      notificationChannel: "notification_peer",
      multiNotify: false,
      numWorkers: 2,
      workerSleepMs: 0,
      pingIntervalMs: 60_000,
      removeInactive: true,
      failCountEnabled: false,
      failCountThresholdNotActive: 0,
      failCountThresholdDisabled: 1,
      handlerTimeoutMs: 1_500,
      requestTimeoutMs: 32_000,
      window: 256,
      queueMessages: 10_000,
      initWithSingle: false,
      slSend: false,
      udpSegmentation: true,
      allow: ["private"],
      allowRequests: [],
      leaveOnTerminate: false,
      channels: [],
      handlers: [],
      replicate: [],
      dnsServers: [],
      tlsCert: undefined,
      tlsKey: undefined,
      tlsCa: undefined,
      tlsVerify: "peer",
      tlsRequireClientCert: false,
      socket: undefined,
      rpcGroup: undefined,
      stateDir: undefined,
      noSnapshot: false,
      queues: [],
      links: [],
      queueSize: 0,
      queueAddmode: "0",
      storeMax: "2g",
      storeRepair: false,
      ctl: undefined,
      rpcFifo: undefined,
      rpcFifoReplyDir: undefined,
      logLevel: "info",
      amqp: [],
      amqpPrimary: "local",
      amqpMode: ["failover"],
      amqpPrefer: "current",
      amqpHeartbeatMs: 10_000,
      amqpConnectTimeoutMs: 3_000,
      amqpWindow: 500,
      amqpPasswordFile: undefined,
      amqpCa: undefined,
      amqpCert: undefined,
      amqpKey: undefined,
      amqpInsecure: false,
      amqpServername: undefined,
      nodeName: undefined,
      bus: "dmq",
      logJson: false,
    });
  });

  test("every default is within the bounds of its own option", () => {
    const written = CONFIG_OPTIONS.filter((option) => option.default !== undefined);
    const flags = Object.fromEntries(written.map((option) => [option.name, [option.default as string]]));
    expect(load({ flags }).config).toEqual(load({}).config);
  });
});

describe("values", () => {
  const cases: [name: string, text: string, property: keyof DmqConfig, value: unknown][] = [
    ["ping_interval", "1", "pingIntervalMs", 1_000],
    ["ping_interval", "1500ms", "pingIntervalMs", 1_500],
    ["ping_interval", "2m", "pingIntervalMs", 120_000],
    ["allow", "192.0.2.0/24", "allow", ["192.0.2.0/24"]],
    ["allow", "members", "allow", ["members"]],
    ["allow_requests", "2001:db8::/32", "allowRequests", ["2001:db8::/32"]],
    ["worker_usleep", "1", "workerSleepMs", 1],
    ["worker_usleep", "1000", "workerSleepMs", 1],
    ["worker_usleep", "1001", "workerSleepMs", 2],
    ["remove_inactive", "0", "removeInactive", false],
    ["remove_inactive", "yes", "removeInactive", true],
    ["num_workers", "1024", "numWorkers", 1_024],
    ["server_address", "sip:[::1]:5070;transport=tcp", "serverAddress", "sip:[::1]:5070;transport=tcp"],
    ["server_address", "sip:127.0.0.1:0", "serverAddress", "sip:127.0.0.1:0"],
    ["notification_address", "sip:node1.example:5060", "notificationAddresses", ["sip:node1.example:5060"]],
    ["server_socket", "udp:127.0.0.1:5060", "serverSockets", ["udp:127.0.0.1:5060"]],
    ["server_socket", "udp:[::1]:5060", "serverSockets", ["udp:[::1]:5060"]],
    ["notification_address", "sips:node1.example", "notificationAddresses", ["sips:node1.example"]],
    [
      "notification_address",
      "sip:192.0.2.1:5061;transport=tls",
      "notificationAddresses",
      ["sip:192.0.2.1:5061;transport=tls"],
    ],
    ["channel", "channel1", "channels", ["channel1"]],
    ["log_level", "trace", "logLevel", "trace"],
  ];
  for (const [name, text, property, value] of cases) {
    test(`${name} ${text} is accepted from a flag and from the environment`, () => {
      expect(load({ flags: { [name]: [text] } }).config[property]).toEqual(value as never);
      expect(load({ env: { [`DMQ_${name.toUpperCase()}`]: text } }).config[property]).toEqual(value as never);
    });
  }

  const wrong: [name: string, text: string][] = [
    ["ping_interval", "0"],
    ["ping_interval", "0.5"],
    ["ping_interval", "soon"],
    ["ping_interval", "-1"],
    ["ping_interval", ""],
    ["num_workers", "0"],
    ["num_workers", "1025"],
    ["num_workers", "2.5"],
    ["num_workers", "1e3"],
    ["remove_inactive", "2"],
    ["server_address", "127.0.0.1:5060"],
    ["server_address", "sip:0.0.0.0:5060"],
    ["server_address", "sip:[::]:5060"],
    ["server_address", "sip:node1.example:5060"],
    ["notification_address", "sip:127.0.0.1:0"],
    ["server_address", "sip:127.0.0.1:65536"],
    ["server_address", "sip:127.0.0.1:5060;transport=sctp"],
    ["server_address", "sip:user@127.0.0.1:5060"],
    ["server_address", "sip:127.0.0.1:5060\r\nX: y"],
    ["server_address", "sip:999.0.0.1"],
    ["server_address", "sip:[::1"],
    ["server_address", "sip:"],
    ["notification_address", "sip:"],
    ["server_socket", "udp:127.0.0.1"],
    ["server_socket", "127.0.0.1:5060"],
    ["server_socket", "udp:host.example:5060"],
    ["server_socket", "sctp:127.0.0.1:5061"],
    ["server_address", "sips:127.0.0.1:5061;transport=tcp"],
    ["server_address", "sips:127.0.0.1:5061;transport=udp"],
    ["notification_address", "sips:node1.example;transport=udp"],
    ["channel", "a b"],
    ["channel", "a\r\nb"],
    ["channel", "a:b"],
    ["log_level", "loud"],
    ["socket", `/${"x".repeat(108)}`],
    ["socket", "a\0b"],
  ];
  for (const [name, text] of wrong) {
    test(`${name} ${JSON.stringify(text).slice(0, 40)} is refused, with what was seen and what is allowed`, () => {
      const error = failure({ flags: { [name]: [text] } });
      expect(error.code).toBe("config-invalid-value");
      expect(error.option).toBe(`--${name.replaceAll("_", "-")}`);
      expect(error.received).toBe(JSON.stringify(text));
      expect(error.expected).toBe(CONFIG_OPTIONS.find((option) => option.name === name)?.expected as string);
    });
  }
});

describe("brokers", () => {
  const a = "amqp://user:secret@192.0.2.1/";
  const b = "zone=east;amqps://192.0.2.2:5671/v";

  test("of a flag, a variable and a file may have commas between them", () => {
    expect(load({ flags: { amqp: [`${a}, ${b}`] } }).config.amqp).toEqual([a, b]);
    expect(load({ flags: { amqp: [a, b] } }).config.amqp).toEqual([a, b]);
    expect(load({ env: { DMQ_AMQP: `${a},${b}` } }).config.amqp).toEqual([a, b]);
    expect(load({ toml: `amqp = "${a},${b}"` }).config.amqp).toEqual([a, b]);
    expect(load({ toml: `amqp = ["${a}", "${b}"]\namqp_mode = ["all", "east=failover"]` }).config).toMatchObject({
      amqp: [a, b],
      amqpMode: ["all", "east=failover"],
    });
  });

  test("DMQ_AMQP_URL is read where DMQ_AMQP is not set", () => {
    const loaded = load({ env: { DMQ_AMQP_URL: a } });
    expect(loaded.config.amqp).toEqual([a]);
    expect(loaded.sources.get("amqp")).toBe("DMQ_AMQP_URL");
    expect(load({ env: { DMQ_AMQP_URL: a, DMQ_AMQP: b } }).config.amqp).toEqual([b]);
  });

  for (const [text, seen] of [
    ["http://user:secret@192.0.2.1/", '"http://user:***@192.0.2.1/"'],
    ["amqp://user:sec ret@192.0.2.1/", '"amqp://user:***@192.0.2.1/"'],
    ["amqp://user:a@b/secret@192.0.2.1/\nx", '"amqp://user:***@192.0.2.1/\\nx"'],
    ["secret@192.0.2.1", "a text of 16 characters"],
    ["", "a text of 0 characters"],
  ] as const)
    test(`${JSON.stringify(text)} is refused without showing a password`, () => {
      const error = failure({ flags: { amqp: [text] } });
      expect(error.option).toBe("--amqp");
      expect(error.received).toBe(seen);
      expect(error.message).not.toContain("secret");
    });

  test("whoever believes every certificate is warned", () => {
    expect(load({ flags: { amqp_insecure: ["1"] } }).warnings.join()).toContain("amqp_insecure is 1");
  });
});

describe("precedence", () => {
  const toml = `ping_interval = 30\nnotification_address = ["sip:192.0.2.1", "sip:192.0.2.2"]`;

  test("flag, then environment, then file, then default; and where each is from", () => {
    const env = { DMQ_PING_INTERVAL: "20" };
    const flags = { ping_interval: ["10"] };
    const all = load({ flags, env, toml });
    expect([all.config.pingIntervalMs, all.sources.get("ping_interval")]).toEqual([10_000, "--ping-interval"]);
    const two = load({ env, toml });
    expect([two.config.pingIntervalMs, two.sources.get("ping_interval")]).toEqual([20_000, "DMQ_PING_INTERVAL"]);
    const one = load({ toml });
    expect(one.config.pingIntervalMs).toBe(30_000);
    expect(one.sources.get("ping_interval")).toEndWith(".toml");
    expect(load({}).sources.get("ping_interval")).toBe("default");
  });

  test("a repeatable option of one place replaces that of another as a whole", () => {
    expect(load({ toml }).config.notificationAddresses).toEqual(["sip:192.0.2.1", "sip:192.0.2.2"]);
    const env = { DMQ_NOTIFICATION_ADDRESS: "sip:192.0.2.3, sip:192.0.2.4" };
    expect(load({ toml, env }).config.notificationAddresses).toEqual(["sip:192.0.2.3", "sip:192.0.2.4"]);
  });

  test("an empty variable is an unset one", () => {
    expect(load({ toml, env: { DMQ_PING_INTERVAL: "" } }).config.pingIntervalMs).toBe(30_000);
  });

  test("methods with one code have commas between them: in the variable they stay together", () => {
    const rules = ["REGISTER,PUBLISH=202", "MESSAGE"];
    expect(load({ env: { DMQ_REPLICATE: rules.join(" ") } }).config.replicate).toEqual(rules);
  });

  test("commands have spaces and commas: in the variable a line is one, in the file a text", () => {
    const commands = ["alerts=logger -t dmq, -p info", "peer-up=sh -c 'echo a, b'"];
    expect(load({ env: { DMQ_ON: commands.join("\n") } }).config.handlers).toEqual(commands);
    expect(load({ env: { DMQ_ON: `\n${commands.join("\r\n")}\n \n` } }).config.handlers).toEqual(commands);
    expect(load({ toml: `on = ${JSON.stringify(commands)}` }).config.handlers).toEqual(commands);
    expect(load({ toml: `on = ${JSON.stringify(commands[0])}` }).config.handlers).toEqual([commands[0] as string]);
  });

  test("without --config, dmq.toml below XDG_CONFIG_HOME is read", () => {
    mkdirSync(join(FOLDER, "dmq"));
    writeFileSync(join(FOLDER, "dmq", "dmq.toml"), "num_workers = 7");
    const { config, sources } = loadConfig({ flags: new Map(), env: { XDG_CONFIG_HOME: FOLDER } });
    expect(config.numWorkers).toBe(7);
    expect(sources.get("num_workers")).toBe(join(FOLDER, "dmq", "dmq.toml"));
  });
});

describe("the file", () => {
  test("takes numbers, booleans, integers for booleans, and durations as text", () => {
    const toml = `handler_timeout = 0.5\nrequest_timeout = "4s"\nmulti_notify = true\nremove_inactive = 0`;
    const { config } = load({ toml });
    expect([config.handlerTimeoutMs, config.requestTimeoutMs]).toEqual([500, 4_000]);
    expect([config.multiNotify, config.removeInactive]).toEqual([true, false]);
  });

  const cases: [name: string, toml: string, code: string, told: string][] = [
    ["an unknown key names the nearest one", "ping_intervall = 5", "config-unknown-key", "did you mean ping_interval?"],
    ["a flag's spelling is one, too", "ping-interval = 5", "config-unknown-key", "did you mean ping_interval?"],
    ["a word far from all lists them", "quux = 5", "config-unknown-key", "one of server_address, server_socket"],
    ["a value of the wrong type", `num_workers = "many"`, "config-invalid-value", "an integer from 1 to 1024"],
    ["a list where one value belongs", "num_workers = [1, 2]", "config-invalid-value", "one value"],
    ["a table where a value belongs", "[num_workers]\na = 1", "config-invalid-value", "an integer from 1 to 1024"],
    ["an unknown key of [tls]", `[tls]\ncertt = "a"`, "config-unknown-key", "did you mean cert?"],
    ["its long name in [tls]", `[tls]\ntls_cert = "a"`, "config-unknown-key", "did you mean cert?"],
    ["a word far from all in [tls]", `[tls]\nquux = "a"`, "config-unknown-key", "one of cert, key, ca"],
    ["both forms of one option", `tls_ca = "a"\n[tls]\nca = "b"`, "config-contradiction", "tls_ca and ca in [tls]"],
    ["[tls] that is no table", `tls = "a"`, "config-invalid-value", "a table: [tls]"],
    ["a value of the wrong kind in [tls]", `[tls]\nverify = "maybe"`, "config-invalid-value", "peer or none"],
    ["what is no TOML", "num_workers == 1", "config-unreadable", "TOML"],
  ];
  for (const [name, toml, code, told] of cases) {
    test(`refuses: ${name}`, () => {
      const error = failure({ toml });
      expect(error.code).toBe(code as ConfigError["code"]);
      expect(error.message).toContain(told);
    });
  }

  test("the table [tls] is another way to write the keys that begin with tls_", () => {
    const table = `[tls]\ncert = "c"\nkey = "k"\nca = "a"\nverify = "none"\nrequire_client_cert = true`;
    const keys = `tls_cert = "c"\ntls_key = "k"\ntls_ca = "a"\ntls_verify = "none"\ntls_require_client_cert = true`;
    expect(load({ toml: table }).config).toEqual(load({ toml: keys }).config);
    expect(load({ toml: table }).config).toMatchObject({ tlsCert: "c", tlsKey: "k", tlsCa: "a", tlsVerify: "none" });
    expect(load({ toml: table, flags: { tls_cert: ["f"] } }).config.tlsCert).toBe("f");
  });

  test("must be there when it was named", () => {
    const missing = join(FOLDER, "missing.toml");
    expect(() => loadConfig({ flags: new Map(), env: {}, file: missing })).toThrow(`${missing} (ENOENT)`);
  });
});

describe("together", () => {
  test("multi_notify contradicts several notification addresses", () => {
    const error = failure({ flags: { multi_notify: ["1"], notification_address: ["sip:a.example", "sip:b.example"] } });
    expect(error.code).toBe("config-contradiction");
    expect(error.message).toContain("2 notification addresses (sip:a.example, sip:b.example)");
  });

  const places: [what: string, flags: Record<string, string[]>, told: string][] = [
    [
      "a server_socket of another transport",
      { server_address: ["sip:192.0.2.1:5062"], server_socket: ["tcp:0.0.0.0:5062"] },
      "a server_socket for udp, for example udp:192.0.2.1:5062",
    ],
    [
      "none for a TLS address among several",
      { server_address: ["sips:192.0.2.1"], server_socket: ["tcp:0.0.0.0:5061", "udp:0.0.0.0:5061"], tls_cert: ["c"] },
      "for example tls:192.0.2.1:5061",
    ],
    ["a TLS address without a certificate", { server_address: ["sips:127.0.0.1"] }, "tls_cert and tls_key"],
    [
      "the same with transport=tls",
      { server_address: ["sip:127.0.0.1;transport=tls"] },
      "server_address sip:127.0.0.1;transport=tls: got no tls_cert",
    ],
    [
      "a TLS socket without a certificate",
      { server_socket: ["udp:127.0.0.1:5060", "tls:127.0.0.1:5061"] },
      "server_socket udp:127.0.0.1:5060, tls:127.0.0.1:5061: got no tls_cert",
    ],
  ];
  for (const [what, flags, told] of places)
    test(`contradict: ${what}`, () => {
      const error = failure({ flags });
      expect([error.code, error.message]).toEqual(["config-contradiction", expect.stringContaining(told)]);
    });

  test("a node that listens elsewhere than at its address is warned about, wildcards and free ports are not", () => {
    const warnings = (address: string, ...sockets: string[]): string[] =>
      load({ flags: { server_address: [address], server_socket: sockets, tls_cert: ["c"] } }).warnings;
    const nat = warnings("sip:10.0.2.1:5060", "udp:10.0.0.1:5060");
    expect(nat).toEqual([
      "server_socket udp:10.0.0.1:5060 is not at server_address sip:10.0.2.1:5060: a NAT must lead from there to here",
    ]);
    expect(warnings("sip:10.0.2.1:5060", "udp:0.0.0.0:5061").length).toBe(1);
    expect(warnings("sip:10.0.2.1:5060", "tcp:10.0.2.1:5060", "udp:10.0.0.1:5060").length).toBe(1);
    expect(warnings("sip:10.0.2.1:5090", "udp:0.0.0.0:5090")).toEqual([]);
    expect(warnings("sip:10.0.2.1", "udp:10.0.2.1:5060", "udp:10.0.0.1:5060")).toEqual([]);
    expect(warnings("sip:[fd00::1]", "udp:[fd00:0::1]:5060")).toEqual([]);
    expect(warnings("sips:10.0.2.1", "tls:[::]:5061")).toEqual([]);
    expect(warnings("sip:127.0.0.1:0", "udp:127.0.0.1:0")).toEqual([]);
  });

  test("a node that verifies nobody is warned about", () => {
    const { warnings } = load({ flags: { server_address: ["sip:10.0.2.1"], tls_verify: ["none"] } });
    expect(warnings).toEqual([expect.stringContaining("tls_verify is none")]);
  });

  test("a short ping interval and an address that only this machine reaches are warned about", () => {
    expect(load({ flags: { ping_interval: ["4"], server_address: ["sip:10.0.2.1"] } }).warnings).toEqual([
      "ping_interval 4 s is short: below 5 s the pings load every node",
    ]);
    expect(load({}).warnings).toEqual([
      "server_address is not set: sip:127.0.0.1:5060 is used, and nodes on other machines cannot reach this one",
    ]);
    expect(load({ flags: { ping_interval: ["5"], server_address: ["sip:10.0.2.1"] } }).warnings).toEqual([]);
  });
});

describe("the schema", () => {
  test("names each option once in every spelling", () => {
    for (const spell of [flagOf, environmentOf, (option: (typeof CONFIG_OPTIONS)[number]) => option.property]) {
      expect(new Set(CONFIG_OPTIONS.map(spell)).size).toBe(CONFIG_OPTIONS.length);
    }
  });

  test("docs/CONFIG.md has its table, line for line", async () => {
    const { configTable } = await import("../../src/config/schema.ts");
    expect(await Bun.file(join(import.meta.dir, "..", "..", "docs", "CONFIG.md")).text()).toContain(configTable());
  });

  test("who is named and not let in is warned about", () => {
    const warnings = (flags: Record<string, string[]>): string[] => load({ flags }).warnings;
    const far = ["sip:203.0.113.5:5060"];
    expect(warnings({ server_address: ["sip:10.0.0.1"], notification_address: far })).toEqual([
      "allow is private: requests of notification_address sip:203.0.113.5:5060 are refused; add members, or its network",
    ]);
    expect(warnings({ server_address: ["sip:203.0.113.1"] })).toEqual([
      "allow is private, and server_address sip:203.0.113.1 is not in it: its neighbours may be refused; add their network",
    ]);
    for (const allow of ["203.0.113.0/24", "any", "members"])
      expect(warnings({ server_address: ["sip:203.0.113.1"], notification_address: far, allow: [allow] })).toEqual([]);
  });
});
