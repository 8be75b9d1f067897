/** What Kamailio's `mqueue` does, row for row (part A of the specification), done by the store. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { ConfigError } from "../../src/core/errors.ts";
import { formatDefinition, parseDefinition } from "../../src/queue/definition.ts";
import { item, Rig, text } from "./rig.ts";

let rig: Rig;

beforeEach(() => {
  rig = new Rig();
});

afterEach(() => rig.close());

describe("B12.1: the definition", () => {
  test("Kamailio's text is read, its names without regard to case, with a semicolon at the end", () => {
    expect(parseDefinition("Name=alert;SIZE=100;addMode=2;")).toMatchObject({
      name: "alert",
      size: 100,
      addmode: "newest",
      full: "drop-oldest",
      store: "disk",
    });
    expect(parseDefinition("name=a;dbmode=0").store).toBe("memory");
  });

  const WRONG: [string, string, string][] = [
    ["an unknown attribute", "name=a;sise=1", "size?"],
    ["a missing name", "size=1", "name=NAME"],
    ["an attribute twice", "name=a;size=1;size=2", "it once"],
    ["a number that is none, which Kamailio takes for 0", "name=a;size=1OO", "0 (no limit)"],
    ["a name that is ours", "name=a.dead", "letter or digit"],
    ["memory that is on disk", "name=a;store=memory;dbmode=1", "only one of the two"],
    ["dbmode=2 without a file", "name=a;dbmode=2", "db=FILE"],
    ["a file of whatever directory the daemon is in", "name=a;dbmode=2;db=file.db", "from / on"],
    ["two semicolons", "name=a;;size=1", "attribute=value"],
  ];
  for (const [what, given, hint] of WRONG) {
    test(`${what} is refused`, () => {
      expect(() => parseDefinition(given)).toThrow(ConfigError);
      expect(() => parseDefinition(given)).toThrow(hint);
    });
  }

  test("a negative size is no limit, another addmode than 0, 1, 2 is refused where Kamailio takes it for 0", () => {
    expect(parseDefinition("name=a;size=-5").size).toBe(0);
    expect(() => parseDefinition("name=a;addmode=7")).toThrow("0, 1, 2");
  });

  test("defaults of mqueue_size and mqueue_addmode hold for whoever says nothing", () => {
    const defaults = { size: 7, addmode: "oldest" as const };
    expect(parseDefinition("a", defaults)).toMatchObject({ size: 7, addmode: "oldest", full: "drop-oldest" });
    expect(parseDefinition("name=a;size=0", defaults)).toMatchObject({ size: 0, full: "reject" });
  });

  test("what is written is read again as the same", () => {
    for (const given of [
      "a",
      "name=a;size=3;addmode=in-place;full=wait;ttl=90s;expired=dead;max-tries=2;retry=0;max-value=5k",
      "name=a;store=memory;bytes=1m;sync=normal",
      "name=a;size=2;overflow=dead;dbmode=3;db=/file.db",
    ]) {
      const definition = parseDefinition(given);
      expect(parseDefinition(formatDefinition(definition))).toEqual(definition);
    }
  });

  test("a second definition keeps what is queued", () => {
    expect(rig.define("name=q;size=5")).toBe("made");
    rig.fill("q", 5);
    expect(rig.define("name=q;size=5")).toBe("same");
    expect(rig.define("name=q;size=3")).toBe("changed");
    expect(rig.keys("q")).toEqual(["k1", "k2", "k3", "k4", "k5"]);
    // The next add makes room down to the new bound.
    rig.add("q", "k6");
    expect(rig.keys("q")).toEqual(["k4", "k5", "k6"]);
  });
});

describe("B12.1: size and addmode", () => {
  test("beyond its size the oldest item goes, silently, and the add succeeds", () => {
    rig.define("name=q;size=3");
    rig.fill("q", 5);
    expect(rig.keys("q")).toEqual(["k3", "k4", "k5"]);
    expect(rig.counted("q")).toMatchObject({ added: 5, dropped: 2, rejected: 0 });
  });

  test("size 1 holds the newest", () => {
    rig.define("name=q;size=1");
    rig.fill("q", 4);
    expect(rig.keys("q")).toEqual(["k4"]);
  });

  test("without a size nothing is dropped", () => {
    rig.define("q");
    rig.fill("q", 200);
    expect(rig.sizes("q").ready).toBe(200);
  });

  test("addmode 0 appends, whatever the key", () => {
    rig.define("name=q;addmode=0");
    for (const value of ["1", "2"]) rig.add("q", "k", value);
    expect([rig.fetch("q"), rig.fetch("q")]).toEqual([
      ["k", "1"],
      ["k", "2"],
    ]);
  });

  test("addmode 1: the queued key wins, and the add says success", () => {
    rig.define("name=q;addmode=1");
    const first = rig.add("q", "k", "1");
    expect(rig.add("q", "k", "2")).toEqual({ seq: first.seq, stored: "ignored" });
    expect(rig.fetch("q")).toEqual(["k", "1"]);
    expect(rig.fetch("q")).toBeUndefined();
    // A fetched one does not count.
    expect(rig.add("q", "k", "3").stored).toBe("stored");
  });

  test("addmode 2: the new item wins, at the end", () => {
    rig.define("name=q;addmode=2");
    rig.fill("q", 3);
    expect(rig.add("q", "k1", "new").stored).toBe("replaced");
    expect(rig.keys("q")).toEqual(["k2", "k3", "k1"]);
    expect(rig.sizes("q").bytes).toBe(2 + 2 + 3);
  });

  test("in-place: the new value, in the old place", () => {
    rig.define("name=q;addmode=in-place");
    rig.fill("q", 3);
    rig.add("q", "k1", "new");
    expect(rig.keys("q")).toEqual(["k1", "k2", "k3"]);
    expect(rig.fetch("q")).toEqual(["k1", "new"]);
  });

  test("addmode 2 at its size: a queued key takes nobody's place", () => {
    rig.define("name=q;size=2;addmode=2");
    rig.fill("q", 2);
    rig.add("q", "k1", "new");
    expect(rig.keys("q")).toEqual(["k2", "k1"]);
    expect(rig.counted("q").dropped).toBe(0);
  });

  for (const mode of ["1", "2", "in-place"]) {
    test(`addmode ${mode}: a leased item of the same key is as good as fetched`, () => {
      rig.define(`name=q;addmode=${mode}`);
      rig.add("q", "k", "1");
      const [leased] = rig.lease("q");
      expect(rig.add("q", "k", "2").stored).toBe("stored");
      rig.do({ type: "ack", ids: [leased?.id ?? ""] });
      expect(rig.fetch("q")).toEqual(["k", "2"]);
    });
  }

  test("keys are compared octet for octet", () => {
    rig.define("name=q;addmode=1");
    for (const key of ["a", "A", "a ", "ä", "a\u0308", ""]) expect(rig.add("q", key).stored).toBe("stored");
    expect(rig.add("q", "").stored).toBe("ignored");
  });
});

describe("adding and fetching", () => {
  test("first in, first out; nothing is left at the end", () => {
    rig.define("q");
    rig.fill("q", 3);
    expect([1, 2, 3, 4].map(() => rig.fetch("q")?.[0])).toEqual(["k1", "k2", "k3", undefined]);
    expect(rig.sizes("q")).toMatchObject({ ready: 0, leased: 0, bytes: 0, oldestMs: null });
  });

  test("empty keys and values are items as any other; Kamailio's RPC loses them", () => {
    rig.define("q");
    rig.add("q", "", "");
    rig.add("q", "", "v");
    rig.add("q", "k", "");
    expect([1, 2, 3].map(() => rig.fetch("q"))).toEqual([
      ["", ""],
      ["", "v"],
      ["k", ""],
    ]);
  });

  test("values are any octets", () => {
    rig.define("q");
    const octets = Uint8Array.from({ length: 256 }, (_, index) => index);
    rig.do({ type: "add", queue: "q", items: [item("k", octets)] });
    expect(rig.lease("q")[0]?.value).toEqual(octets);
  });

  test("an unknown queue is named, with those that there are", () => {
    rig.define("alert");
    expect(rig.failure({ type: "sizes", queue: "alarm" })).toBe("no-such-queue");
    expect(() => rig.sizes("alarm")).toThrow("alert");
    for (const operation of [
      { type: "add", queue: "x", items: [item("k")] },
      { type: "lease", queue: "x", count: 1, leaseMs: 1, holder: "h" },
      { type: "peek", queue: "x", count: 1 },
      { type: "clear", queue: "x" },
      { type: "drop", queue: "x", force: true },
      { type: "move", from: "alert", to: "x", count: 1 },
      { type: "dead", queue: "x", count: 1 },
      { type: "retry-dead", queue: "x", seqs: "all" },
    ] as const)
      expect(rig.failure(operation)).toBe("no-such-queue");
  });

  test("sizes are listed last defined first", () => {
    for (const name of ["one", "two", "three"]) rig.define(name);
    rig.fill("two", 2);
    expect(rig.do({ type: "report" }).map(({ name, ready }) => [name, ready])).toEqual([
      ["three", 0],
      ["two", 2],
      ["one", 0],
    ]);
  });

  test("several consumers share a queue, each item goes to one", () => {
    rig.define("q");
    rig.fill("q", 6);
    const seen = ["a", "b", "c"].flatMap((holder) => rig.lease("q", { holder, count: 2 }));
    expect(seen.map(({ key }) => key)).toEqual(["k1", "k2", "k3", "k4", "k5", "k6"]);
    expect(seen.map(text)).toEqual(["v1", "v2", "v3", "v4", "v5", "v6"]);
    expect(rig.lease("q")).toEqual([]);
  });
});
