/** What is read of the configuration before anything is connected to, and messages as JSON: nothing of either may be lost or said. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deliveryOf, deliveryRow, headersJson, headersOf } from "../../src/amqp/json.ts";
import { type AmqpSettings, readAmqp } from "../../src/amqp/options.ts";
import { spooled, unspooled } from "../../src/amqp/spool.ts";
import { parseBrokers } from "../../src/amqp/url.ts";
import { loadConfig } from "../../src/config/load.ts";
import { ConfigError } from "../../src/core/errors.ts";

const folder = mkdtempSync(join(tmpdir(), "dmq-options-"));
afterAll(() => rmSync(folder, { recursive: true }));

function file(name: string, text: string): string {
  writeFileSync(join(folder, name), text);
  return join(folder, name);
}

/** What is so without a word, and two brokers. */
const PLAIN: AmqpSettings = {
  ...loadConfig({ flags: new Map(), env: {}, file: file("empty.toml", "") }).config,
  amqp: ["amqp://u@192.0.2.1", "zone=east;amqp://u:own@192.0.2.2"],
  nodeName: "edge1",
};

function failure(settings: Partial<AmqpSettings>): ConfigError {
  try {
    readAmqp({ ...PLAIN, ...settings });
  } catch (error) {
    if (error instanceof ConfigError) return error;
    throw error;
  }
  throw new Error("it was accepted");
}

describe("options", () => {
  test("without a broker there is nothing to connect to", () => {
    expect(readAmqp({ ...PLAIN, amqp: [] })).toBeUndefined();
  });

  test("a file has the password of URLs without one, in its first line", () => {
    const options = readAmqp({ ...PLAIN, amqpPasswordFile: file("password", "s e:c@ret\r\nmore\n") });
    expect(options?.brokers.map(({ password }) => password)).toEqual(["s e:c@ret", "own"]);
    expect(options?.brokers.map(({ text }) => text).join()).not.toContain("ret");
  });

  test("modes are of all zones, or of one", () => {
    const options = readAmqp({
      ...PLAIN,
      amqpMode: ["all", "east=failover"],
      amqpPrefer: "first",
      amqpHeartbeatMs: 1_500,
    });
    expect(options).toMatchObject({ mode: "all", modes: { east: "failover" }, prefer: "first", primaryZone: "local" });
    expect(options?.brokers.map(({ heartbeatS }) => heartbeatS)).toEqual([2, 2]);
    expect(readAmqp(PLAIN)).toMatchObject({ mode: "failover", window: { messages: 500 }, name: "edge1", tls: {} });
  });

  const pem = file("a.pem", "-----BEGIN CERTIFICATE-----\n");
  for (const [what, settings, option] of [
    ["a zone that no broker is in", { amqp: ["zone=a;amqp://h"] }, "amqp_primary"],
    ["a mode of a zone that no broker is in", { amqpMode: ["west=all"] }, "amqp_mode"],
    ["a certificate without its key", { amqpCert: pem }, "amqp_cert"],
    ["a key without its certificate", { amqpKey: pem }, "amqp_key"],
    ["an authority that is not there", { amqpCa: join(folder, "none") }, "amqp_ca"],
    ["an authority that is no PEM", { amqpCa: file("b.pem", "x") }, "amqp_ca"],
    ["a file without a password", { amqpPasswordFile: file("empty", "\n") }, "amqp_password_file"],
    ["a broker that is none", { amqp: ["amqp://u:secret@"] }, "amqp"],
  ] as const)
    test(`${what} is refused by its name, and shows no password`, () => {
      const error = failure(settings);
      expect(error.option).toBe(option);
      expect(error.message).not.toContain("secret");
    });
});

describe("messages as JSON", () => {
  const headers = { n: 5, t: "a", b: true, z: null, o: new Uint8Array([0, 255]), l: [1, { x: new Uint8Array([7]) }] };

  test("headers come back as they were, octets too", () => {
    expect(headersOf(JSON.parse(JSON.stringify(headersJson(headers))))).toEqual(headers);
  });

  for (const body of [new Uint8Array([0, 128, 255]), new TextEncoder().encode("\ufeff{}"), new Uint8Array(0)])
    test(`a delivery with a body of ${body.length} octets comes back as it was, without the password of its broker`, () => {
      const [broker] = parseBrokers(["zone=east;amqp://u:secret@192.0.2.1/v"]);
      if (broker === undefined) throw new Error("no broker");
      const place = { exchange: "e", routingKey: "k", queue: "q", redelivered: true, deliveryCount: 3 };
      const delivery = { ...place, headers, contentType: "x/y", messageId: "m", expirationMs: 5, body, broker };
      const text = JSON.stringify(deliveryRow(delivery, "get-1"));
      expect(text).not.toContain("secret");
      expect(deliveryOf(JSON.parse(text))).toEqual({ ...delivery, broker: { ...broker, password: "" } });
    });

  test("a message in the spool is the one that was stored; the second time it says that it may have come before", () => {
    const message = { exchange: "e", routingKey: "k", mandatory: false, contentType: "x/y", messageId: "m", headers };
    const stored = spooled({ ...message, body: new Uint8Array([1]) });
    const item = { seq: 1, id: "1-1", queue: "amqp.spool", path: [], from: null, channel: null, addedAt: 0, dueAt: 0 };
    const all = { ...item, key: "e", value: stored.value, contentType: "x/y", headers: stored.headers ?? {} };
    expect(unspooled({ ...all, tries: 1 })).toEqual({ ...message, body: new Uint8Array([1]) });
    expect(unspooled({ ...all, tries: 2 })?.headers).toEqual({ ...headers, "x-dmq-repeat": 1 });
    expect(unspooled({ ...all, headers: {}, tries: 1 })).toBeUndefined();
  });
});
