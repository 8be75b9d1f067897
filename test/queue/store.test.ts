/** How a store is opened, shared and lost: two daemons, two processes, damage, a later version, a foreign lock, waiting. */
// needs programs: bash cat env false head sleep tr true wc
import { Database } from "bun:sqlite";
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseDefinition } from "../../src/queue/definition.ts";
import { QueueError } from "../../src/queue/error.ts";
import { holderName, isGone } from "../../src/queue/holder.ts";
import { inProcess } from "../../src/queue/open.ts";
import { STEPS } from "../../src/queue/schema.ts";
import type { QueueStore } from "../../src/queue/store.ts";
import { storePath } from "../../src/queue/store.ts";
import { startStore } from "../../src/queue/thread.ts";
import { addWhenRoom, leaseWhenReady } from "../../src/queue/wait.ts";
import { Folder, item } from "./rig.ts";

const BYTES_MAX = 64 * 1024 * 1024;
const LEASE_MS = 60_000;

let folder: Folder;
let open: QueueStore[];

beforeEach(() => {
  folder = new Folder();
  open = [];
});

afterEach(async () => {
  for (const store of open) await store.close();
  folder.remove();
});

async function daemon(repair = false): Promise<QueueStore> {
  const store = await startStore({ directory: folder.path, bytesMax: BYTES_MAX, repair });
  open.push(store);
  return store;
}

function command(): QueueStore {
  const store = inProcess({ directory: folder.path });
  open.push(store);
  return store;
}

async function define(store: QueueStore, text: string): Promise<void> {
  await store.perform({ type: "define", definition: parseDefinition(text) });
}

async function add(store: QueueStore, queue: string, ...keys: string[]): Promise<void> {
  await store.perform({ type: "add", queue, items: keys.map((key) => item(key)) });
}

async function keys(store: QueueStore, queue: string): Promise<string[]> {
  return (await store.perform({ type: "peek", queue, count: 100 })).map(({ key }) => key);
}

function lease(
  queue: string,
  holder = "test",
): { type: "lease"; queue: string; count: number; leaseMs: number; holder: string } {
  return { type: "lease", queue, count: 1, leaseMs: LEASE_MS, holder };
}

describe("opening", () => {
  test("a second daemon is refused, and told who has the store; after the first one's end it is let in", async () => {
    const first = await daemon();
    const refusal = await startStore({ directory: folder.path, bytesMax: BYTES_MAX, repair: false }).catch(
      (error) => error,
    );
    expect(refusal).toBeInstanceOf(QueueError);
    expect(refusal).toMatchObject({ code: "storage", isHeld: true });
    expect(refusal.message).toContain(`process ${process.pid} since`);
    await first.close();
    await define(await daemon(), "q");
  });

  test("files are the owner's alone", async () => {
    await define(await daemon(), "q");
    const modes = readdirSync(folder.path)
      .filter((name) => name.startsWith("queues.db"))
      .map((name) => statSync(join(folder.path, name)).mode & 0o777);
    expect(new Set(modes)).toEqual(new Set([0o600]));
  });

  test("what is no store is refused, and set aside only where that was asked for", async () => {
    writeFileSync(storePath(folder.path), "not a database, ".repeat(1_000));
    const refusal = await daemon().catch((error) => error);
    expect(refusal).toMatchObject({ code: "storage", isHeld: false });
    expect(refusal.message).toContain("--store-repair");
    const repaired = await daemon(true);
    expect(repaired.warnings.join()).toMatch(/damaged-\d{8}T\d{6}Z/);
    await define(repaired, "q");
    expect(readdirSync(folder.path).filter((name) => name.includes(".damaged-"))).not.toEqual([]);
  });

  test("a store of a later version is refused and left as it is, also by a repair", async () => {
    const db = new Database(storePath(folder.path), { create: true });
    db.run("PRAGMA user_version = 99");
    db.close();
    for (const repair of [false, true]) {
      const refusal = await daemon(repair).catch((error) => error);
      expect(refusal.message).toContain("version 99");
    }
    expect(readdirSync(folder.path).filter((name) => name.includes("damaged"))).toEqual([]);
  });

  /** A queue `q` with two items, of which the newest is gone, as an earlier version left it. */
  function old(version: number): void {
    const db = new Database(storePath(folder.path), { create: true });
    for (const step of STEPS.slice(0, version)) db.run(step);
    db.run(`PRAGMA user_version = ${version}`);
    db.run("INSERT INTO queues (name, definition, items, bytes) VALUES ('q', ?, 1, 9000)", [
      JSON.stringify(parseDefinition("q")),
    ]);
    for (const key of ["old", "newest"])
      db.run(
        "INSERT INTO items (queue, key, value, type, added, due) VALUES (1, ?, zeroblob(9000), 'text/plain', 1, 1)",
        [key],
      );
    db.run("DELETE FROM items WHERE key = 'newest'");
    db.close();
  }

  test.each([1, 2])(
    "a store of version %d is brought on: its items stay, and no number is given again",
    async (version) => {
      old(version);
      const store = command();
      expect(await store.perform({ type: "check" })).toMatchObject({ ok: true, items: 1 });
      const [found] = await store.perform(lease("q"));
      expect(found).toMatchObject({ seq: 1, key: "old", value: new Uint8Array(9_000) });
      await store.perform({ type: "ack", ids: [found?.id as string] });
      const [added] = await store.perform({ type: "add", queue: "q", items: [item("next")] });
      expect(added?.seq).toBe(3);
      expect(await store.perform({ type: "check" })).toMatchObject({ ok: true, items: 1 });
    },
  );

  test("no number is given again: not after the newest is gone, nor its queue, nor the process", async () => {
    const seqOf = async (store: QueueStore): Promise<number> =>
      (await store.perform({ type: "add", queue: "q", items: [item("k")] }))[0]?.seq as number;
    const drop = { type: "drop" as const, queue: "q", force: true };
    const first = command();
    await define(first, "q");
    expect(await seqOf(first)).toBe(1);
    await first.perform({ type: "clear", queue: "q" });
    const second = await daemon();
    expect(await seqOf(second)).toBe(2);
    expect(await seqOf(first)).toBe(3);
    await second.perform(drop);
    await define(second, "q");
    expect(await seqOf(second)).toBe(4);
    await first.perform(drop);
    for (const store of open.splice(0)) await store.close();
    const third = command();
    await define(third, "q");
    expect(await seqOf(third)).toBe(5);
  });

  test("a directory that cannot be made is named", async () => {
    const file = join(folder.path, "file");
    writeFileSync(file, "");
    const refusal = await startStore({ directory: join(file, "state"), bytesMax: BYTES_MAX, repair: false }).catch(
      (error) => error,
    );
    expect(refusal).toMatchObject({ code: "storage" });
    expect(refusal.message).toContain("ENOTDIR");
    expect(existsSync(join(file, "state"))).toBe(false);
  });

  test("leases of processes that are gone are freed by whoever opens next, those of the living stay", async () => {
    const first = command();
    await define(first, "q");
    await add(first, "q", "a", "b", "c");
    const child = Bun.spawnSync(["true"]);
    const gone = holderName("x").replace(/^\d+/, String(child.pid));
    expect([isGone(gone), isGone(holderName("x"))]).toEqual([true, false]);
    await first.perform(lease("q", gone));
    await first.perform(lease("q", holderName("living")));
    await first.perform(lease("q", holderName("former", true)));
    expect(await keys(first, "q")).toEqual([]);
    expect(await keys(command(), "q")).toEqual(["a"]);
    // There is one daemon, so what a daemon had leased is nobody's.
    expect(await keys(await daemon(), "q")).toEqual(["a", "c"]);
  });
});

describe("B12.3: several processes", () => {
  test("a command beside the daemon: each sees what the other wrote, and who waits is woken", async () => {
    const [served, direct] = [await daemon(), command()];
    await define(served, "q");
    const waiting = leaseWhenReady(served, lease("q"), 20_000);
    await add(direct, "q", "a");
    expect((await waiting).map(({ key }) => key)).toEqual(["a"]);
    const other = leaseWhenReady(direct, lease("q"), 20_000);
    await add(served, "q", "b");
    expect((await other).map(({ key }) => key)).toEqual(["b"]);
  });

  test("a foreign process that holds the lock makes adds wait; the thread lives on", async () => {
    const store = await daemon();
    await define(store, "q");
    const foreign = new Database(storePath(folder.path));
    foreign.run("BEGIN IMMEDIATE");
    const adding = add(store, "q", "late");
    expect(await Promise.race([adding.then(() => "stored"), Bun.sleep(300).then(() => "waits")])).toBe("waits");
    foreign.run("COMMIT");
    foreign.close();
    await adding;
    expect(await keys(store, "q")).toEqual(["late"]);
  });

  test("a lock that is held for longer than five seconds: the group fails as a whole, later ones do not", async () => {
    const store = await daemon();
    await define(store, "q");
    const foreign = new Database(storePath(folder.path));
    foreign.run("BEGIN IMMEDIATE");
    const begun = performance.now();
    const failures = await Promise.all([1, 2, 3].map((n) => add(store, "q", `k${n}`).catch((error) => error.code)));
    expect(failures).toEqual(["storage", "storage", "storage"]);
    expect(performance.now() - begun).toBeLessThan(9_000);
    foreign.run("ROLLBACK");
    foreign.close();
    await add(store, "q", "later");
    expect(await keys(store, "q")).toEqual(["later"]);
  }, 15_000);
});

describe("queues in memory", () => {
  test("they live beside the file, with ids of their own, and are gone with the daemon", async () => {
    const store = await daemon();
    await define(store, "name=m;store=memory");
    await define(store, "d");
    await add(store, "m", "a");
    await add(store, "d", "b");
    const [inMemory, onDisk] = [await store.perform(lease("m")), await store.perform(lease("d"))].map(
      ([one]) => one?.id ?? "",
    );
    expect([inMemory, onDisk]).toEqual(["m1-1", "1-1"]);
    const both = [inMemory as string, onDisk as string];
    const wrong = await store.perform({ type: "ack", ids: [...both, "m9-1"] }).catch((error) => error.code);
    expect(wrong).toBe("no-such-item");
    expect(await store.perform({ type: "ack", ids: both })).toBe(2);
    expect((await store.perform({ type: "report" })).map(({ name }) => name).sort()).toEqual(["d", "m"]);
    expect((await store.perform({ type: "check" })).ok).toBe(true);
    await store.close();
    const next = await daemon();
    expect((await next.perform({ type: "report" })).map(({ name }) => name)).toEqual(["d"]);
  });

  test("items move between memory and disk, in order, or stay where they do not fit", async () => {
    const store = await daemon();
    await define(store, "name=m;store=memory");
    await define(store, "name=d;size=2;full=reject");
    await add(store, "m", "a", "b", "c");
    const failure = await store.perform({ type: "move", from: "m", to: "d", count: 3 }).catch((error) => error.code);
    expect([failure, await keys(store, "m"), await keys(store, "d")]).toEqual(["queue-full", ["a", "b", "c"], []]);
    expect(await store.perform({ type: "move", from: "m", to: "d", count: 2 })).toBe(2);
    expect(await store.perform({ type: "move", from: "d", to: "m", count: 1 })).toBe(1);
    expect([await keys(store, "m"), await keys(store, "d")]).toEqual([["c", "a"], ["b"]]);
  });

  test("a queue changes its kind of store only while it is empty", async () => {
    const store = await daemon();
    await define(store, "name=q;store=memory");
    await add(store, "q", "a");
    const change = define(store, "q").catch((error) => error.code);
    expect(await change).toBe("queue-busy");
    await store.perform({ type: "clear", queue: "q" });
    await define(store, "q");
    expect((await store.perform({ type: "report", queue: "q" }))[0]?.definition.store).toBe("disk");
  });

  test("without a daemon there are none", async () => {
    expect(await define(command(), "name=q;store=memory").catch((error) => error.message)).toContain("dmq serve");
  });
});

describe("waiting", () => {
  test("full=wait stores when there is room, and says so when there was none in time", async () => {
    const store = await daemon();
    await define(store, "name=q;size=1;full=wait");
    await add(store, "q", "a");
    const operation = { type: "add" as const, queue: "q", items: [item("b")] };
    expect(await addWhenRoom(store, operation, 50).catch((error) => error.code)).toBe("queue-timeout");
    expect(await keys(store, "q")).toEqual(["a"]);
    const waiting = addWhenRoom(store, operation, 20_000);
    const [first] = await store.perform(lease("q"));
    await store.perform({ type: "ack", ids: [first?.id ?? ""] });
    expect(await waiting).toHaveLength(1);
    expect(await keys(store, "q")).toEqual(["b"]);
  });

  test("a fetcher is woken by a delayed item, and ends when it is told to", async () => {
    const store = await daemon();
    await define(store, "q");
    await store.perform({ type: "add", queue: "q", items: [item("later", "", { delayMs: 60 })] });
    const begun = performance.now();
    expect((await leaseWhenReady(store, lease("q"), 20_000)).map(({ key }) => key)).toEqual(["later"]);
    expect(performance.now() - begun).toBeLessThan(5_000);
    const ending = new AbortController();
    const waiting = leaseWhenReady(store, lease("q"), Number.POSITIVE_INFINITY, ending.signal);
    ending.abort();
    expect(await waiting).toEqual([]);
    expect(await leaseWhenReady(store, lease("q"), 10)).toEqual([]);
  });

  test("operations of one turn are answered in their order", async () => {
    const store = await daemon();
    await define(store, "q");
    const added = await Promise.all(
      Array.from({ length: 500 }, (_, n) => store.perform({ type: "add", queue: "q", items: [item(`k${n}`)] })),
    );
    const seqs = added.map(([one]) => one?.seq ?? 0);
    expect(seqs).toEqual([...seqs].sort((a, b) => a - b));
  });

  test("a store that was closed says so", async () => {
    const store = await daemon();
    const asked = define(store, "q");
    await store.close();
    await asked;
    expect(await add(store, "q", "k").catch((error) => error.code)).toBe("storage");
  });
});
