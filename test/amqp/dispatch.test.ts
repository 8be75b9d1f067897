/** Names of handlers (amqp.md B6), with what a hostile sender may write there (B12 9), and the directory that they are looked for in. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { connectionNames, type EventFields, eventNames, handlerName, NAME_CHARS_MAX } from "../../src/amqp/dispatch.ts";
import { HandlerFolder } from "../../src/amqp/folder.ts";
import { encodeUtf8 } from "../../src/core/bytes.ts";
import { anyText } from "../helpers/texts.ts";

const FIELDS = ["consumer-event-event-category-event-name", "consumer-event-event-category", "consumer-event"];

function named(category: unknown, name: unknown): Uint8Array {
  return encodeUtf8(JSON.stringify({ "Event-Category": category, "Event-Name": name }));
}

describe("names", () => {
  const cases: [what: string, body: Uint8Array, names: string[], fields?: EventFields][] = [
    [
      "both fields",
      named("presence", "update"),
      ["consumer-event-presence-update", "consumer-event-presence", ...FIELDS],
    ],
    [
      "upper case and _",
      named("Presence_X", "Up_Date"),
      ["consumer-event-presence-x-up-date", "consumer-event-presence-x", ...FIELDS],
    ],
    ["no name", named("presence", undefined), ["consumer-event-presence", ...FIELDS]],
    ["no category", named(undefined, "update"), FIELDS],
    ["null and objects are none", named(null, {}), FIELDS],
    ["a number", named(7, true), ["consumer-event-7-true", "consumer-event-7", ...FIELDS]],
    ["no fields", encodeUtf8("{}"), FIELDS],
    ["no object", encodeUtf8("[1]"), ["consumer-event"]],
    ["no JSON", encodeUtf8("Event-Category: x"), ["consumer-event"]],
    ["no UTF-8", Uint8Array.of(0x7b, 0xff, 0x7d), ["consumer-event"]],
    ["nothing", new Uint8Array(0), ["consumer-event"]],
    [
      "a path",
      named("../../etc/passwd", "../x"),
      ["consumer-event--..-etc-passwd--x", "consumer-event--..-etc-passwd", ...FIELDS],
    ],
    ["dots only", named("..", "."), FIELDS],
    ["leading dots", named(".hidden", "...x"), ["consumer-event-hidden-x", "consumer-event-hidden", ...FIELDS]],
    ["empty texts", named("", ""), FIELDS],
    [
      "NUL, line ends and spaces",
      named("a\0b", "c\r\n d"),
      ["consumer-event-a-b-c---d", "consumer-event-a-b", ...FIELDS],
    ],
    ["letters of other alphabets", named("é\u212a", "😀"), ["consumer-event-----", "consumer-event---", ...FIELDS]],
    ["shell's words", named("$(id)", "`x`;|"), ["consumer-event---id---x---", "consumer-event---id-", ...FIELDS]],
    [
      "own fields",
      encodeUtf8('{"Kind":"A","Sub_Kind":"B"}'),
      [
        "consumer-event-a-b",
        "consumer-event-a",
        "consumer-event-kind-sub-kind",
        "consumer-event-kind",
        "consumer-event",
      ],
      { key: "Kind", subkey: "Sub_Kind" },
    ],
    [
      "own fields that are missing count as their names",
      encodeUtf8("{}"),
      ["consumer-event-kind-sub", "consumer-event-kind", "consumer-event"],
      { key: "Kind", subkey: "Sub" },
    ],
    [
      "a path into the body",
      encodeUtf8('{"a":{"b.c":[0,"x"]},"Event-Name":"n"}'),
      [
        "consumer-event-x-n",
        "consumer-event-x",
        "consumer-event-a.b-c-1--event-name",
        "consumer-event-a.b-c-1-",
        "consumer-event",
      ],
      { key: ".a.b%c[1]" },
    ],
    [
      "a dot in a name is no path",
      encodeUtf8('{"a":{"b":"x"},"a.b":"y"}'),
      ["consumer-event-y", "consumer-event-a.b-event-name", "consumer-event-a.b", "consumer-event"],
      { key: "a.b" },
    ],
  ];
  for (const [what, body, names, fields] of cases) test(what, () => expect(eventNames(body, fields)).toEqual(names));

  test("10 KB: cut, and the rest of the order stays", () => {
    const names = eventNames(named("x".repeat(10_000), "y".repeat(10_000)));
    expect(names[0]).toBe(`consumer-event-${"x".repeat(NAME_CHARS_MAX)}`.slice(0, NAME_CHARS_MAX));
    expect(names.slice(-3)).toEqual(FIELDS);
  });

  test("of a connection", () => {
    expect(connectionNames("open").slice(0, 2)).toEqual([
      "consumer-event-connection-open",
      "consumer-event-connection",
    ]);
  });

  test("whatever the values are, a name is a file name of the directory itself", () => {
    const text = fc.oneof(anyText(500), fc.constantFrom("../x", "", ".", "..", "/", "a/../b", "\0"));
    fc.assert(
      fc.property(text, text, fc.option(text), fc.option(text), (category, name, key, subkey) => {
        const own = { ...(key !== null && { key }), ...(subkey !== null && { subkey }) };
        const names = eventNames(
          encodeUtf8(JSON.stringify({ [key ?? "Event-Category"]: category, [subkey ?? "Event-Name"]: name })),
          own,
        );
        expect(names.at(-1)).toBe("consumer-event");
        expect(new Set(names).size).toBe(names.length);
        for (const one of names) expect(one).toMatch(/^consumer-event(-[a-z0-9.-]+)?$/);
        for (const one of names) expect(one.length).toBeLessThanOrEqual(NAME_CHARS_MAX);
      }),
    );
  });
});

describe("what an operator writes", () => {
  const cases: [text: string, name: string | undefined][] = [
    ["presence-update", "consumer-event-presence-update"],
    ["Presence_Update", "consumer-event-presence-update"],
    ["consumer-event-presence", "consumer-event-presence"],
    ["kazoo:consumer-event-presence", "consumer-event-presence"],
    ["kazoo:consumer-event", "consumer-event"],
    ["consumer-event", "consumer-event"],
    ["connection-open", "consumer-event-connection-open"],
    ["mod-init", "mod-init"],
    ["kazoo:mod-init", "mod-init"],
    ["", undefined],
    ["kazoo:", undefined],
    ["../x", undefined],
    ["a b", undefined],
    ["x".repeat(201), undefined],
  ];
  for (const [text, name] of cases)
    test(JSON.stringify(text.slice(0, 40)), () => expect(handlerName(text)).toBe(name as string));
});

describe("the directory", () => {
  let top: string;
  let dir: string;
  const executable = (path: string): void => {
    writeFileSync(path, "#!/bin/sh\n");
    chmodSync(path, 0o755);
  };
  beforeAll(() => {
    top = mkdtempSync(join(tmpdir(), "hf-"));
    dir = join(top, "handlers");
    mkdirSync(dir);
    executable(join(top, "outside"));
    executable(join(dir, "consumer-event-presence"));
    executable(join(dir, "consumer-event"));
    executable(join(dir, "kazoo:consumer-event-call"));
    writeFileSync(join(dir, "consumer-event-plain"), "");
    mkdirSync(join(dir, "consumer-event-folder"));
    symlinkSync("../outside", join(dir, "consumer-event-out"));
    symlinkSync("consumer-event-presence", join(dir, "consumer-event-in"));
    symlinkSync("nothing", join(dir, "consumer-event-dangling"));
    symlinkSync(dir, join(top, "link"));
  });
  afterAll(() => rmSync(top, { recursive: true, force: true }));

  const find = (...names: string[]): unknown => new HandlerFolder(dir).find(names);

  test("the first that is there, most significant first", () => {
    const path = join(dir, "consumer-event-presence");
    expect(find("consumer-event-presence-update", "consumer-event-presence", "consumer-event")).toEqual({
      ...{ type: "handler", name: "consumer-event-presence", path },
    });
    expect(find("nothing", "consumer-event")).toMatchObject({ type: "handler", path: join(dir, "consumer-event") });
    expect(find("nothing")).toEqual({ type: "none" });
  });

  test("the prefix of Kamailio's names is accepted", () => {
    expect(find("consumer-event-call")).toMatchObject({
      type: "handler",
      path: join(dir, "kazoo:consumer-event-call"),
    });
  });

  test("a link inside is followed, one that leads out is refused, and nothing behind it is tried", () => {
    expect(find("consumer-event-in")).toMatchObject({ type: "handler" });
    expect(find("consumer-event-out", "consumer-event")).toEqual({
      ...{
        type: "refused",
        path: join(dir, "consumer-event-out"),
        why: "a symbolic link that leads out of the directory",
      },
    });
  });

  test("what cannot be run is refused", () => {
    for (const name of ["consumer-event-plain", "consumer-event-folder", "consumer-event-dangling"])
      expect(find(name, "consumer-event")).toMatchObject({ type: "refused" });
  });

  test("the directory itself may be a link; what is none is an error", () => {
    expect(new HandlerFolder(join(top, "link")).find(["consumer-event"])).toMatchObject({ type: "handler" });
    expect(() => new HandlerFolder(join(top, "none"))).toThrow("a directory that can be read");
    expect(() => new HandlerFolder(join(top, "outside"))).toThrow("expected a directory");
  });

  test("names of messages stay inside, whatever a message says", () => {
    const folder = new HandlerFolder(dir);
    for (const value of ["../outside", "/../outside", "..", "x\0", "%2e%2e/outside"]) {
      const found = folder.find(eventNames(named(value, value)));
      expect(found).toMatchObject({ type: "handler", path: join(dir, "consumer-event") });
    }
  });
});
