/** Links as the configuration has them: what they need besides, and what they must not touch. */
import { describe, expect, test } from "bun:test";
import { ConfigError } from "../../src/core/errors.ts";
import { closedChannels, readDaemonLinks } from "../../src/daemon/linking.ts";

const NOTHING = { handlers: [], notificationChannel: "notification_peer", amqp: [] };
const BROKER = { ...NOTHING, amqp: ["amqp://127.0.0.1"] };

describe("links of the configuration", () => {
  const lone = [
    "channel:a -> exchange:x",
    "exchange:x -> channel:a",
    "queue:q -> exchange:x",
    "amqp-queue:x -> queue:q",
  ];
  for (const text of lone)
    test(`${text} needs a broker`, () => {
      expect(() => readDaemonLinks({ ...NOTHING, links: [text] })).toThrow(ConfigError);
      expect(() => readDaemonLinks({ ...NOTHING, links: [text] })).toThrow("amqp=URL");
      expect(readDaemonLinks({ ...BROKER, links: [text] })).toHaveLength(1);
    });

  test("a link without a broker needs none", () => {
    expect(readDaemonLinks({ ...NOTHING, links: ["channel:a -> queue:q"] })).toHaveLength(1);
  });

  for (const name of ["usrloc", "htable", "dialog", "notification_peer"])
    test(`channel ${name} can be read into an exchange or not, and is written with internal=yes only`, () => {
      expect(closedChannels(NOTHING).has(name)).toBe(true);
      const into = `exchange:x -> channel:${name}`;
      expect(() => readDaemonLinks({ ...BROKER, links: [into] })).toThrow("internal=yes");
      expect(readDaemonLinks({ ...BROKER, links: [`${into};internal=yes`] })).toHaveLength(1);
      const out = { ...BROKER, links: [`channel:${name} -> exchange:x`] };
      // The node answers that one itself.
      if (name === "notification_peer") expect(() => readDaemonLinks(out)).toThrow(ConfigError);
      else expect(readDaemonLinks(out)).toHaveLength(1);
    });

  test("a channel that a command answers cannot be a link's, too", () => {
    const links = ["channel:a -> exchange:x"];
    expect(() => readDaemonLinks({ ...BROKER, handlers: ["a=true"], links })).toThrow("channel a");
  });
});
