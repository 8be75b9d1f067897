/** Bounds, leases, retries, dead letters, time: what the store does beyond `mqueue`. */
import { Database } from "bun:sqlite";
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { statSync } from "node:fs";
import { join } from "node:path";
import type { Item, Operation } from "../../src/queue/operation.ts";
import { STDERR_CHARS_MAX } from "../../src/queue/room.ts";
import { Folder, item, Rig, START, text } from "./rig.ts";

let rig: Rig;

beforeEach(() => {
  rig = new Rig();
});

afterEach(() => rig.close());

describe("bounds", () => {
  test("reject: the add fails, nothing goes", () => {
    rig.define("name=q;size=2;full=reject");
    rig.fill("q", 2);
    expect(rig.failure({ type: "add", queue: "q", items: [item("k3")] })).toBe("queue-full");
    expect(rig.keys("q")).toEqual(["k1", "k2"]);
    expect(rig.counted("q").rejected).toBe(1);
  });

  test("bytes count values, and the oldest make room for a large one", () => {
    rig.define("name=q;bytes=10;full=drop-oldest");
    for (const key of ["a", "b", "c"]) rig.add("q", key, "123");
    rig.add("q", "d", "1234567");
    expect(rig.keys("q")).toEqual(["c", "d"]);
    expect(rig.sizes("q").bytes).toBe(10);
  });

  test("several items are stored all or none", () => {
    rig.define("name=q;size=3;full=reject");
    rig.fill("q", 2);
    expect(rig.failure({ type: "add", queue: "q", items: [item("a"), item("b")] })).toBe("queue-full");
    expect(rig.keys("q")).toEqual(["k1", "k2"]);
    expect(rig.counted("q")).toMatchObject({ added: 2, rejected: 1 });
  });

  test("what is leased is not dropped: where all is, the add is rejected", () => {
    rig.define("name=q;size=2");
    rig.fill("q", 2);
    rig.lease("q");
    rig.add("q", "k3");
    expect(rig.keys("q")).toEqual(["k3"]);
    rig.lease("q");
    expect(rig.failure({ type: "add", queue: "q", items: [item("k4")] })).toBe("queue-full");
    expect(rig.sizes("q")).toMatchObject({ ready: 0, leased: 2 });
  });

  test("an add that a leased item leaves no room for drops nothing on its way to the refusal", () => {
    rig.define("name=q;bytes=10;full=drop-oldest");
    rig.add("q", "a", "12345");
    rig.lease("q");
    rig.add("q", "b", "1234");
    expect(rig.failure({ type: "add", queue: "q", items: [item("c", "1234567")] })).toBe("queue-full");
    expect(rig.keys("q")).toEqual(["b"]);
  });

  test("overflow=dead keeps what is dropped", () => {
    rig.define("name=q;size=1;overflow=dead");
    rig.fill("q", 3);
    const dead = rig.do({ type: "dead", queue: "q", count: 10 });
    expect(dead.map(({ key, reason }) => [key, reason])).toEqual([
      ["k1", "overflow"],
      ["k2", "overflow"],
    ]);
  });

  test("a value or key that is too large is refused, the largest is not", () => {
    rig.define("name=q;max-value=4");
    expect(rig.failure({ type: "add", queue: "q", items: [item("k", "12345")] })).toBe("item-refused");
    expect(rig.failure({ type: "add", queue: "q", items: [item("ä".repeat(513))] })).toBe("item-refused");
    expect(rig.failure({ type: "add", queue: "q", items: [item("ä".repeat(512), "1234")] })).toBeUndefined();
  });
});

describe("ids that are given", () => {
  test("an id given twice within the hour is stored once, also after it was fetched", () => {
    rig.define("q");
    const first = rig.add("q", "k", "v", { dedupe: "x" });
    expect(rig.add("q", "k", "v", { dedupe: "x" })).toEqual({ seq: first.seq, stored: "repeated" });
    rig.fetch("q");
    rig.now += 3_599_000;
    expect(rig.add("q", "k", "v", { dedupe: "x" }).stored).toBe("repeated");
    rig.now += 2_000;
    expect(rig.add("q", "k", "v", { dedupe: "x" }).stored).toBe("stored");
  });

  test("ids of two queues have nothing to do with each other", () => {
    for (const name of ["a", "b"]) rig.define(name);
    for (const name of ["a", "b"]) expect(rig.add(name, "k", "", { dedupe: "x" }).stored).toBe("stored");
  });

  test("an add that was rejected is not remembered", () => {
    rig.define("name=q;size=1;full=reject");
    rig.add("q", "k");
    expect(rig.failure({ type: "add", queue: "q", items: [item("k", "", { dedupe: "x" })] })).toBe("queue-full");
    rig.fetch("q");
    expect(rig.add("q", "k", "", { dedupe: "x" }).stored).toBe("stored");
  });
});

describe("leases", () => {
  test("a leased item is invisible, and ready again in its place when nobody settles it in time", () => {
    rig.define("q");
    rig.fill("q", 2);
    const [first] = rig.lease("q", { leaseMs: 1_000 });
    expect(rig.keys("q")).toEqual(["k2"]);
    expect(rig.do({ type: "next-due", queue: "q" })).toBe(START + 1_000);
    rig.now += 1_000;
    const [again] = rig.lease("q");
    expect([again?.key, again?.tries]).toEqual(["k1", 2]);
    // The first id was good for the first lease.
    for (const ids of [[first?.id ?? ""], ["17-1"], ["nonsense"], [""]])
      expect(rig.failure({ type: "ack", ids })).toBe("no-such-item");
    rig.do({ type: "ack", ids: [again?.id ?? ""] });
    expect(rig.failure({ type: "ack", ids: [again?.id ?? ""] })).toBe("no-such-item");
  });

  test("extend begins the time anew", () => {
    rig.define("q");
    rig.add("q", "k");
    const [leased] = rig.lease("q", { leaseMs: 1_000 });
    rig.now += 900;
    rig.do({ type: "extend", ids: [leased?.id ?? ""], leaseMs: 1_000 });
    rig.now += 900;
    expect(rig.lease("q")).toEqual([]);
    rig.do({ type: "ack", ids: [leased?.id ?? ""] });
  });

  test("of several ids all are settled or none", () => {
    rig.define("q");
    rig.fill("q", 3);
    const ids = rig.lease("q", { count: 3 }).map(({ id }) => id);
    for (const operation of [
      { type: "ack", ids: [...ids, "99-1"] },
      { type: "ack", ids: [...ids, ids[0] as string] },
      { type: "extend", ids: [...ids, "99-1"], leaseMs: 5 },
      { type: "fail", failures: [...ids, "99-1"].map((id) => ({ id, fate: "dead" as const })) },
    ] as const)
      expect(rig.failure(operation)).toBe("no-such-item");
    expect(rig.sizes("q")).toMatchObject({ leased: 3, dead: 0 });
    rig.do({ type: "ack", ids });
  });

  test("a holder that is gone gives everything back", () => {
    rig.define("q");
    rig.fill("q", 3);
    rig.lease("q", { holder: "a", count: 2 });
    rig.lease("q", { holder: "b" });
    expect(rig.do({ type: "holders" }).sort()).toEqual(["a", "b"]);
    expect(rig.do({ type: "release", holders: ["a", "nobody"] })).toBe(2);
    expect(rig.keys("q")).toEqual(["k1", "k2"]);
  });

  test("order by key: one of a key at a time, and one that fails holds up its key only", () => {
    rig.define("q");
    for (const key of ["a", "b", "a", "b", "c"]) rig.add("q", key, "");
    const first = rig.lease("q", { orderByKey: true, count: 5 });
    expect(first.map(({ key }) => key)).toEqual(["a", "b", "c"]);
    const [a, b] = first as [Item, Item];
    rig.do({ type: "fail", failures: [{ id: a.id, fate: "retry", delayMs: 1_000 }] });
    rig.do({ type: "ack", ids: [b.id] });
    expect(rig.lease("q", { orderByKey: true, count: 5 }).map(({ key }) => key)).toEqual(["b"]);
    rig.now += 1_000;
    expect(rig.lease("q", { orderByKey: true, count: 5 }).map(({ key, seq }) => [key, seq])).toEqual([["a", a.seq]]);
  });
});

describe("retries and dead letters", () => {
  test("a retry waits 1 s, twice as long each time up to 5 minutes, spread by a fifth", () => {
    rig.define("name=q;max-tries=20");
    rig.add("q", "k");
    const delays: number[] = [];
    for (let i = 0; i < 12; i++) {
      rig.random = i % 2;
      const [leased] = rig.lease("q");
      rig.do({ type: "fail", failures: [{ id: leased?.id ?? "", fate: "retry" }] });
      const due = rig.do({ type: "next-due", queue: "q" }) as number;
      delays.push(due - rig.now);
      rig.now = due;
    }
    expect(delays.slice(0, 4)).toEqual([800, 2_400, 3_200, 9_600]);
    expect(delays.slice(-2)).toEqual([240_000, 360_000]);
  });

  test("retry=0 gives it back at once, in its old place", () => {
    rig.define("name=q;retry=0");
    rig.fill("q", 2);
    const [leased] = rig.lease("q");
    rig.do({ type: "fail", failures: [{ id: leased?.id ?? "", fate: "retry" }] });
    expect(rig.keys("q")).toEqual(["k1", "k2"]);
  });

  test("after max-tries it is a dead letter with its reason, exit code, the end of stderr and times", () => {
    rig.define("name=q;max-tries=2;retry=0");
    rig.add("q", "k", "v", { headers: { a: "b" }, path: ["n/l"], from: "sip:x", channel: "c" });
    const why = { reason: "exit", exitCode: 3, stderr: `${"x".repeat(STDERR_CHARS_MAX)}end` };
    const fates = [1, 2].map(() => {
      const [leased] = rig.lease("q");
      return rig.do({ type: "fail", failures: [{ id: leased?.id ?? "", fate: "retry", ...why }] });
    });
    expect(fates).toEqual([["retried"], ["dead"]]);
    const [dead] = rig.do({ type: "dead", queue: "q", count: 5 });
    expect(dead).toMatchObject({ key: "k", reason: "exit", exitCode: 3, tries: 2, diedAt: START, queue: "q.dead" });
    expect(dead).toMatchObject({ headers: { a: "b" }, path: ["n/l"], from: "sip:x", channel: "c" });
    expect(dead?.stderr).toHaveLength(STDERR_CHARS_MAX);
    expect(dead?.stderr.endsWith("end")).toBe(true);
    expect(rig.sizes("q")).toMatchObject({ ready: 0, dead: 1, bytes: 0 });
    expect(rig.counted("q")).toMatchObject({ delivered: 2, retried: 1, died: 1 });
  });

  test("what does not count can be retried for ever", () => {
    rig.define("name=q;max-tries=1;retry=0");
    rig.add("q", "k");
    for (let i = 0; i < 5; i++) {
      const [leased] = rig.lease("q");
      expect(leased?.tries).toBe(1);
      rig.do({ type: "fail", failures: [{ id: leased?.id ?? "", fate: "retry", counts: false }] });
    }
    expect(rig.sizes("q")).toMatchObject({ ready: 1, dead: 0 });
  });

  test("a lease that was lost at the last try is a dead letter", () => {
    rig.define("name=q;max-tries=1");
    rig.add("q", "k");
    rig.lease("q", { leaseMs: 10 });
    rig.now += 10;
    expect(rig.lease("q")).toEqual([]);
    expect(rig.do({ type: "dead", queue: "q", count: 1 })[0]?.reason).toBe("lease-lost");
  });

  test("dead letters are put back with no tries, some or all, or dropped", () => {
    rig.define("q");
    rig.fill("q", 4);
    const failures = rig.lease("q", { count: 4 }).map(({ id }) => ({ id, fate: "dead" as const }));
    rig.do({ type: "fail", failures });
    const seqs = rig.do({ type: "dead", queue: "q", count: 9 }).map(({ seq }) => seq);
    expect(rig.failure({ type: "retry-dead", queue: "q", seqs: [seqs[0] as number, 99] })).toBe("no-such-item");
    expect(rig.sizes("q")).toMatchObject({ ready: 0, dead: 4 });
    expect(rig.do({ type: "retry-dead", queue: "q", seqs: seqs.slice(0, 1) })).toBe(1);
    expect(rig.do({ type: "drop-dead", queue: "q", seqs: seqs.slice(1, 2) })).toBe(1);
    expect(rig.do({ type: "retry-dead", queue: "q", seqs: "all" })).toBe(2);
    expect(rig.keys("q")).toEqual(["k1", "k3", "k4"]);
    expect(rig.lease("q")[0]?.tries).toBe(1);
  });
});

describe("time", () => {
  test("a delayed item is ready in its time, in order of due times among the others", () => {
    rig.define("q");
    rig.add("q", "late", "", { delayMs: 2_000 });
    rig.add("q", "soon", "", { delayMs: 1_000 });
    rig.add("q", "now");
    expect(rig.sizes("q")).toMatchObject({ ready: 1, delayed: 2 });
    expect(rig.fetch("q")?.[0]).toBe("now");
    expect(rig.fetch("q")).toBeUndefined();
    expect(rig.do({ type: "next-due", queue: "q" })).toBe(START + 1_000);
    rig.now += 3_000;
    rig.add("q", "after");
    expect([1, 2, 3].map(() => rig.fetch("q")?.[0])).toEqual(["soon", "late", "after"]);
  });

  test("over its ttl an item is dropped, of the queue or its own, or a dead letter with expired=dead", () => {
    rig.define("name=q;ttl=10s");
    rig.define("name=d;ttl=10s;expired=dead");
    for (const name of ["q", "d"]) rig.add(name, "queue");
    rig.add("q", "own", "", { ttlMs: 20_000 });
    rig.now += 10_000;
    expect(rig.engine.isDue()).toBe(true);
    expect(rig.lease("q").map(({ key }) => key)).toEqual(["own"]);
    expect(rig.engine.isDue()).toBe(false);
    expect(rig.counted("q").expired).toBe(1);
    expect(rig.do({ type: "dead", queue: "d", count: 1 })[0]?.reason).toBe("expired");
  });

  test("more may expire at once than one group clears away: none of them is given out", () => {
    rig.define("name=q;ttl=1s");
    const items = Array.from({ length: 2_500 }, (_, index) => item(`k${index}`));
    rig.do({ type: "add", queue: "q", items });
    rig.now += 1_000;
    for (let i = 0; i < 3; i++) expect(rig.lease("q")).toEqual([]);
    expect(rig.sizes("q").ready).toBe(0);
  });

  for (const back of [5_000, 3_600_000, 10 * 365 * 86_400_000]) {
    test(`a clock that is set back by ${back / 1_000} s keeps order, leases and delays`, () => {
      const folder = new Folder();
      const own = new Rig(join(folder.path, "queues.db"));
      own.now = 1_800_000_000_000;
      own.define("name=q;ttl=1h");
      own.add("q", "first");
      own.add("q", "delayed", "", { delayMs: 2_000 });
      const [leased] = own.lease("q", { leaseMs: 1_000 });
      own.now -= back;
      own.add("q", "second");
      expect(own.keys("q")).toEqual(["second", "delayed"]);
      const due = own.do({ type: "next-due", queue: "q" }) as number;
      expect(due - own.now).toBe(1_000);
      own.reopen();
      own.now += 1_000;
      expect(own.lease("q").map(({ key, tries }) => [key, tries])).toEqual([["first", 2]]);
      expect(own.failure({ type: "ack", ids: [leased?.id ?? ""] })).toBe("no-such-item");
      expect(own.fetch("q")?.[0]).toBe("second");
      expect(own.fetch("q")).toBeUndefined();
      own.now += 1_000;
      expect(own.fetch("q")?.[0]).toBe("delayed");
      own.close();
      folder.remove();
    });
  }
});

describe("large values", () => {
  const LARGE = "x".repeat(100_000);

  test("a lease of one writes a mark, not the value", () => {
    const folder = new Folder();
    const path = join(folder.path, "queues.db");
    const file = new Rig(path);
    file.define("q");
    const values = Array.from({ length: 5 }, (_, i) => `${i}${LARGE.repeat(9)}`);
    for (const value of values) file.add("q", "k", value);
    const other = new Database(path);
    other.run("PRAGMA wal_checkpoint(TRUNCATE)");
    // Each is beyond what several may have together.
    const leases = values.map(() => file.lease("q", { count: 50 }));
    expect(leases.map((items) => items.map(text).join("|") === values.shift())).toEqual(new Array(5).fill(true));
    expect(statSync(`${path}-wal`).size).toBeLessThan(LARGE.length * 9);
    other.close();
    file.close();
    folder.remove();
  });

  test("they go where their items go, and with them", () => {
    rig.define("q");
    rig.define("name=place;addmode=in-place");
    rig.define("other");
    for (const key of ["a", "b", "c", "d"]) rig.add("q", key, `${key}${LARGE}`);
    rig.do({ type: "move", from: "q", to: "other", count: 1 });
    expect(rig.fetch("other")).toEqual(["a", `a${LARGE}`]);
    const [b] = rig.lease("q");
    rig.do({ type: "fail", failures: [{ id: b?.id as string, fate: "dead" }] });
    expect(rig.do({ type: "dead", queue: "q", count: 1 }).map(text)).toEqual([`b${LARGE}`]);
    rig.do({ type: "clear", queue: "q" });
    rig.do({ type: "drop", queue: "q", force: true });
    for (const value of [LARGE, "small", `${LARGE}${LARGE}`, LARGE]) {
      rig.add("place", "k", value);
      expect(rig.do({ type: "peek", queue: "place", count: 1 }).map(text)).toEqual([value]);
      expect(rig.do({ type: "check" })).toMatchObject({ ok: true, items: 1 });
    }
    expect(rig.fetch("place")).toEqual(["k", LARGE]);
    expect(rig.do({ type: "check" })).toMatchObject({ ok: true, items: 0 });
  });
});

describe("the rest", () => {
  test("move keeps what an item is, and counts in both queues", () => {
    for (const name of ["a", "b"]) rig.define(name);
    rig.fill("a", 3);
    expect(rig.do({ type: "move", from: "a", to: "b", count: 9, key: "k2" })).toBe(1);
    rig.now++;
    expect(rig.do({ type: "move", from: "a", to: "b", count: 1 })).toBe(1);
    expect([rig.keys("a"), rig.keys("b")]).toEqual([["k3"], ["k2", "k1"]]);
  });

  test("a move that does not fit as a whole moves nothing", () => {
    rig.define("a");
    rig.define("name=b;size=2;full=reject");
    rig.fill("a", 3);
    expect(rig.failure({ type: "move", from: "a", to: "b", count: 3 })).toBe("queue-full");
    expect([rig.keys("a").length, rig.keys("b").length]).toEqual([3, 0]);
  });

  test("clear leaves what is leased; drop refuses what holds items, unless it is forced", () => {
    rig.define("q");
    rig.fill("q", 3);
    rig.lease("q");
    expect(rig.do({ type: "clear", queue: "q" })).toBe(2);
    expect(rig.failure({ type: "drop", queue: "q", force: false })).toBe("queue-busy");
    expect(rig.do({ type: "drop", queue: "q", force: true })).toBe(1);
    expect(rig.failure({ type: "sizes", queue: "q" })).toBe("no-such-queue");
  });

  test("the path of links stays with an item through queues and dead letters", () => {
    for (const name of ["a", "b"]) rig.define(name);
    rig.add("a", "k", "v", { path: ["n1/l1", "n2/l2"] });
    rig.do({ type: "move", from: "a", to: "b", count: 1 });
    const [leased] = rig.lease("b");
    rig.do({ type: "fail", failures: [{ id: leased?.id ?? "", fate: "dead" }] });
    rig.do({ type: "retry-dead", queue: "b", seqs: "all" });
    expect(rig.lease("b")[0]?.path).toEqual(["n1/l1", "n2/l2"]);
  });

  test("one operation of a group that fails takes none of the others with it", () => {
    rig.define("name=q;size=2;full=reject");
    const add = (key: string) => ({ type: "add" as const, queue: "q", items: [item(key)] });
    const outcomes = rig.engine.run([add("a"), add("b"), add("c"), { type: "clear", queue: "q" }, add("d")]);
    expect(outcomes.map(({ ok }) => ok)).toEqual([true, true, false, true, true]);
    expect(rig.keys("q")).toEqual(["d"]);
  });

  test("a store that is full of its bound refuses adds; fetching goes on and makes room", () => {
    const small = new Rig(":memory:", { bytesMax: 256 * 1_024 });
    small.define("q");
    let failed: string | undefined;
    let stored = 0;
    while (failed === undefined) {
      failed = small.failure({ type: "add", queue: "q", items: [item("k", "x".repeat(1_000))] });
      if (failed === undefined) stored++;
      expect(stored).toBeLessThan(300);
    }
    expect(failed).toBe("storage");
    expect(small.sizes("q").ready).toBe(stored);
    for (let i = 0; i < 20; i++) expect(small.fetch("q")?.[0]).toBe("k");
    expect(small.add("q", "k", "x".repeat(1_000)).stored).toBe("stored");
    small.close();
  });

  test.each([4_000, 90])(
    "keys can be asked for in a store that has no room for their index: values of %d octets",
    (octets) => {
      const small = new Rig(":memory:", { bytesMax: 256 * 1_024 });
      small.define("q");
      const add = (i: number): Operation => ({
        type: "add",
        queue: "q",
        items: [item(`k${i % 2}${"-".repeat(900)}`, "x".repeat(octets))],
      });
      for (let i = 0; i < 300; i++) small.failure(add(i));
      const key = `k1${"-".repeat(900)}`;
      const before = small.sizes("q").ready;
      const [taken] = small.lease("q", { key });
      expect(taken).toMatchObject({ key, seq: 2 });
      expect(small.lease("q", { orderByKey: true, count: 10 }).map(({ seq }) => seq)).toEqual([1]);
      small.do({ type: "ack", ids: [taken?.id as string] });
      expect(small.sizes("q")).toMatchObject({ ready: before - 2, leased: 1 });
      small.close();
    },
  );
});
