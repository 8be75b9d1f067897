/** The list of brokers as operators write it; no password in what people see. */
import { describe, expect, test } from "bun:test";
import { parseBrokers } from "../../src/amqp/url.ts";
import { ConfigError } from "../../src/core/errors.ts";

describe("broker addresses", () => {
  const cases: [text: string, wanted: object][] = [
    [
      "amqp://h",
      {
        ...{
          zone: "local",
          number: 1,
          host: "h",
          port: 5672,
          user: "guest",
          password: "guest",
          vhost: "/",
          tls: false,
        },
        ...{ external: false, heartbeatS: 10, text: "amqp://guest@h:5672" },
      },
    ],
    [
      "amqp://u:p%40ss@h:99/v%2Fh",
      { user: "u", password: "p@ss", port: 99, vhost: "v/h", text: "amqp://u@h:99/v%2Fh" },
    ],
    ["kazoo://u:p@h/", { user: "u", vhost: "/", tls: false, text: "amqp://u@h:5672" }],
    ["amqps://h", { tls: true, port: 5671, text: "amqps://guest@h:5671" }],
    ["amqps://h?auth=external", { external: true, text: "amqps://h:5671" }],
    ["amqp://[::1]:7", { host: "::1", port: 7, text: "amqp://guest@[::1]:7" }],
    ["amqp://h?heartbeat=2", { heartbeatS: 2 }],
    ["amqp://h?heartbeat=0", { heartbeatS: 0 }],
    ["zone=east;amqp://h", { zone: "east", host: "h" }],
    ["amqp://u@h", { user: "u", password: "" }],
  ];
  for (const [text, wanted] of cases) test(text, () => expect(parseBrokers([text])[0]).toMatchObject(wanted));

  test("several, with commas and without, are numbered in order", () => {
    const brokers = parseBrokers(["amqp://a, zone=z;amqp://b", "amqp://c"], { primaryZone: "p" });
    expect(brokers.map(({ number, host, zone }) => [number, host, zone])).toEqual([
      [1, "a", "p"],
      [2, "b", "z"],
      [3, "c", "p"],
    ]);
  });

  test("a password for those that have none, a heartbeat for those that say nothing", () => {
    const brokers = parseBrokers(["amqp://u@a", "amqp://u:own@b?heartbeat=3"], { password: "file", heartbeatS: 7 });
    expect(brokers.map(({ password, heartbeatS }) => [password, heartbeatS])).toEqual([
      ["file", 7],
      ["own", 3],
    ]);
  });

  const wrong = [
    ...[
      "",
      "h",
      "http://h",
      "amqp://",
      "amqp://h:0",
      "amqp://h:99999",
      "amqp://h/a/b",
      "amqp://h?x=1",
      "amqp://h?heartbeat=x",
    ],
    ...["amqp://h?heartbeat=601", "amqp://h?auth=external", "zone=;amqp://h", "zone=x", "amqp://u:%zz@h"],
  ];
  for (const text of wrong) {
    test(`refused: "${text}"`, () => expect(() => parseBrokers([text])).toThrow(ConfigError));
  }

  test("no password in an error, whatever is wrong", () => {
    for (const text of [
      "amqp://u:secret@h:0",
      "http://u:secret@h",
      "amqp://u:s@secret@h?x=1",
      "zone=;amqp://u:secret@h",
    ]) {
      try {
        expect(String(parseBrokers([text]))).toBe("refused");
      } catch (error) {
        expect(error).toBeInstanceOf(ConfigError);
        expect(String(error)).not.toContain("secret");
      }
    }
  });
});
