/**
 * The promise of docs/KAMAILIO.md: nothing that the module's manual names is without a row, each row names a test that is
 * there, and the manual's examples work with the values that stand in them.
 */
import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { loadConfig } from "../src/config/load.ts";
import type { DmqConfig } from "../src/config/schema.ts";
import { runCli } from "./helpers/cli.ts";
import { bodyOf, Harness, udp } from "./node/harness.ts";

const TABLE = readFileSync(join(import.meta.dir, "..", "docs", "KAMAILIO.md"), "utf8");

interface Row {
  manual: string;
  file: string;
  name: string;
}

/** Rows whose last cell is `file` and the beginning of a test's name. */
const ROWS: Row[] = TABLE.split("\n").flatMap((line) => {
  const cells = line.split(/(?<!\\)\|/).map((cell) => cell.trim());
  const test = /^`([a-z/.-]+\.ts)`(?: (.*))?$/.exec(cells.at(-2) ?? "");
  return test === null ? [] : [{ manual: cells[1] ?? "", file: test[1] as string, name: test[2] ?? "" }];
});

/** Names of the manual's sections and examples, and of the parameters that newer versions have. */
const ENTRIES: Record<string, string[]> = {
  parameters: [
    ...["server_address", "server_socket", "notification_address", "notification_channel", "multi_notify"],
    ...["num_workers", "worker_usleep", "ping_interval"],
  ],
  "newer parameters": [
    ...["remove_inactive", "fail_count_enabled", "fail_count_threshold_not_active", "fail_count_threshold_disabled"],
    ...["init_with_single", "sl_send", "event_callback"],
  ],
  functions: [
    ...["dmq_handle_message([continue])", "dmq_process_message([continue])"],
    ...["dmq_send_message(channel, node, body, content_type)", "dmq_bcast_message(channel, body, content_type)"],
    ...["dmq_t_replicate([skip_loop_test])", "dmq_is_from_node()"],
  ],
  "RPC commands": ["dmq.list_nodes", "dmq.remove address"],
  "C API": [
    ...["dmq_load_api(dmq_api_t* api)", "register_dmq_peer(dmq_peer_t* peer)"],
    "bcast_message(peer, body, except, resp_cback, max_forwards, content_type)",
    "send_message(peer, body, node, resp_cback, max_forwards, content_type)",
  ],
};

/** 1.1 to 1.17 and 2.1 to 2.4. */
const EXAMPLES = [
  ...Array.from({ length: 17 }, (_, index) => `1.${index + 1}`),
  ...Array.from({ length: 4 }, (_, index) => `2.${index + 1}`),
];

describe("the table", () => {
  for (const [kind, names] of Object.entries(ENTRIES))
    test(`table: it has a row for each of the manual's ${kind}`, () => {
      const missing = names.filter((name) => !ROWS.some(({ manual }) => manual.includes(`\`${name}\``)));
      expect(missing).toEqual([]);
    });

  test("table: it has a row for each example of the manual", () => {
    expect(ROWS.map(({ manual }) => manual.split(" ")[0] ?? "").filter((id) => /^\d\.\d+$/.test(id))).toEqual(EXAMPLES);
  });

  test("table: the old names of two parameters are told", () => {
    for (const name of ["dmq_server_address", "dmq_notification_address"]) expect(TABLE).toContain(`\`${name}\``);
  });

  test("table: each row names a test that is there", () => {
    const missing = ROWS.filter(({ file, name }) => {
      const path = join(import.meta.dir, file);
      return !existsSync(path) || !readFileSync(path, "utf8").includes(name);
    });
    expect(missing).toEqual([]);
    expect(ROWS.length).toBeGreaterThanOrEqual(Object.values(ENTRIES).flat().length + EXAMPLES.length);
  });

  test("table: every parameter of it is an option of ours, or says what stands in its place", async () => {
    const { CONFIG_OPTIONS } = await import("../src/config/schema.ts");
    const names = new Set(CONFIG_OPTIONS.map(({ name }) => name));
    const parameters = [...(ENTRIES.parameters ?? []), ...(ENTRIES["newer parameters"] ?? [])];
    expect(parameters.filter((name) => !names.has(name))).toEqual(["event_callback"]);
  });
});

function config(flags: Record<string, string>): DmqConfig {
  const given = new Map(Object.entries(flags).map(([name, value]): [string, string[]] => [name, [value]]));
  return loadConfig({ flags: given, env: { XDG_CONFIG_HOME: "/nonexistent" } }).config;
}

const TLS = { tls_cert: "/etc/dmq/cert.pem", tls_key: "/etc/dmq/key.pem" };

/** `modparam("dmq", name, value)` of the examples, and what becomes of it. */
const SET: [example: string, flags: Record<string, string>, expected: Partial<DmqConfig>][] = [
  ["example 1.2", { server_address: "sip:10.0.0.20:5060" }, { serverAddress: "sip:10.0.0.20:5060" }],
  [
    "example 1.2, over TLS",
    { server_address: "sip:10.0.0.20:5061;transport=tls", ...TLS },
    { serverAddress: "sip:10.0.0.20:5061;transport=tls" },
  ],
  ["example 1.3", { server_socket: "udp:10.0.0.20:5060" }, { serverSockets: ["udp:10.0.0.20:5060"] }],
  ["example 1.4", { notification_address: "sip:10.0.0.21:5060" }, { notificationAddresses: ["sip:10.0.0.21:5060"] }],
  [
    "example 1.4, over TLS",
    { notification_address: "sip:10.0.0.21:5061;transport=tls" },
    { notificationAddresses: ["sip:10.0.0.21:5061;transport=tls"] },
  ],
  ["example 1.5", { notification_channel: "peers" }, { notificationChannel: "peers" }],
  ["example 1.6", { multi_notify: "1" }, { multiNotify: true }],
  ["example 1.7", { num_workers: "4" }, { numWorkers: 4 }],
  // The module counts microseconds.
  ["example 1.8", { worker_usleep: "1000" }, { workerSleepMs: 1 }],
  ["example 1.9", { ping_interval: "90" }, { pingIntervalMs: 90_000 }],
];

describe("the manual's examples", () => {
  test("example 1.1: a list in which the sender itself is disabled is answered, and taken for a leave", () => {
    const harness = new Harness();
    harness.start();
    const body = [
      "sip:127.0.0.16:5060;status=active",
      "sip:127.0.0.15:5060;status=disabled",
      "sip:127.0.0.17:5060;status=active",
    ]
      .map((line) => `${line}\r\n`)
      .join("");
    const head = [
      "KDMQ sip:notification_peer@127.0.0.1:5060 SIP/2.0",
      "Via: SIP/2.0/UDP 127.0.0.15;branch=z9hG4bK55e5.423d95110000",
      "To: <sip:notification_peer@127.0.0.1:5060>",
      "From: <sip:notification_peer@127.0.0.15:5060>;tag=2cdb7a33a7f21abb98fd3a44968e3ffd-5b01",
      "CSeq: 10 KDMQ",
      "Call-ID: 1fe138e07b5d0a7a-50419@127.0.0.15",
      `Content-Length: ${body.length}`,
      "User-Agent: kamailio (4.3.0 (x86_64/linux))",
      "Max-Forwards: 1",
      "Content-Type: text/plain",
    ];
    harness.receive(`${head.join("\r\n")}\r\n\r\n${body}`, udp("127.0.0.15"));
    const sent = harness.take();
    const answer = sent.find(({ text }) => text.startsWith("SIP/2.0 200 OK\r\n"));
    expect(answer?.to).toBe("127.0.0.15:5060");
    expect(bodyOf(answer)).toBe("sip:127.0.0.1:5060;status=active\r\n");
    // The two that it lists are asked themselves; the one that leaves is not.
    expect(sent.filter(({ text }) => text.startsWith("KDMQ ")).map(({ to }) => to)).toEqual([
      "127.0.0.16:5060",
      "127.0.0.17:5060",
    ]);
  });

  for (const [example, flags, expected] of SET)
    test(`${example} is taken as it stands`, () => expect(config(flags)).toMatchObject(expected));

  test("examples 1.12 and 1.13: channel, node, body and content type get to the daemon as given", async () => {
    const { FakeDaemon } = await import("./helpers/cli.ts");
    const daemon = new FakeDaemon();
    const node = "sip:10.0.0.21:5060";
    const delivery = { node, outcome: "delivered", code: 200, reason: "OK", ms: 1, consumer: true, attempts: 1 };
    daemon.reply = ({ method }) => ({ result: method === "dmq.send" ? delivery : [] });
    const env = { DMQ_SOCKET: daemon.socket };
    await runCli(["send", "-T", "text/plain", "channel1", node, "Message body..."], { env });
    await runCli(["bcast", "-T", "text/plain", "channel1", "Message body..."], { env });
    daemon.end();
    const message = { channel: "channel1", body: "Message body...", content_type: "text/plain" };
    expect(daemon.calls).toEqual([
      { method: "dmq.send", params: { ...message, node } },
      { method: "dmq.bcast", params: { ...message, except: [] } },
    ]);
  });
});
