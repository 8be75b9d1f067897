/**
 * The snapshot on disk. Goal: whatever lies at its place, a start goes on; whatever happens to a write, the place holds the old list
 * or the new one; nobody can lead it to another file.
 */
// needs programs: bash cat env false head sleep tr true wc
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Logger } from "../../src/core/logger.ts";
import { Snapshot } from "../../src/daemon/snapshot.ts";
import { describeWhere, missingPrograms } from "../helpers/needs.ts";

const URI = "sip:192.0.2.1:5060";
const PEERS = ["sip:192.0.2.2:5060", "sip:192.0.2.3:5060;transport=tcp"];

let directory: string;
let place: string;
let warnings: string[];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "dmq-snap-"));
  place = join(directory, "peers-sip-192.0.2.1-5060.json");
  warnings = [];
});

afterEach(() => rmSync(directory, { recursive: true, force: true }));

function snapshot(at = directory): Snapshot {
  const silent = (): void => undefined;
  const log: Logger = {
    error: silent,
    warn: (text) => warnings.push(text),
    info: silent,
    debug: silent,
    trace: silent,
  };
  return new Snapshot(at, URI, log);
}

async function written(peers: readonly string[], at = directory): Promise<Snapshot> {
  const one = snapshot(at);
  one.write(peers);
  await one.flushed();
  return one;
}

describe("writing", () => {
  test("what was written is read, is for the owner alone, and nothing lies beside it", async () => {
    await written(PEERS, join(directory, "deep", "er"));
    expect(snapshot(join(directory, "deep", "er")).read()).toEqual(PEERS);
    expect(readdirSync(join(directory, "deep", "er"))).toEqual(["peers-sip-192.0.2.1-5060.json"]);
    expect(lstatSync(join(directory, "deep")).mode & 0o777).toBe(0o700);
    await written(PEERS);
    expect(lstatSync(place).mode & 0o777).toBe(0o600);
    expect(warnings).toEqual([]);
  });

  test("of many lists in one go the last one stays, and few are written", async () => {
    const one = snapshot();
    for (let count = 1; count <= 1_000; count++)
      one.write(Array.from({ length: count }, (_, i) => `sip:192.0.2.9:${i}`));
    await one.flushed();
    expect(snapshot().read()).toHaveLength(1_000);
    // The largest registry fits the limit of the reader.
    expect(lstatSync(place).size).toBeLessThan(256 * 1024);
  });

  test("a link that lies where it writes is removed, and its target stays as it is", async () => {
    const target = join(directory, "target");
    writeFileSync(target, "mine");
    symlinkSync(target, `${place}.${process.pid}`);
    symlinkSync(target, place);
    await written(PEERS);
    expect(readFileSync(target, "utf8")).toBe("mine");
    expect(lstatSync(place).isFile()).toBe(true);
    expect(snapshot().read()).toEqual(PEERS);
  });

  test("a place that cannot be written is told of once, and again after it went well", async () => {
    const blocked = join(directory, "file");
    writeFileSync(blocked, "");
    const one = await written(PEERS, blocked);
    one.write(PEERS.slice(1));
    await one.flushed();
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toContain("no snapshot of the peers is kept");
    rmSync(blocked);
    one.write(PEERS);
    await one.flushed();
    expect(snapshot(blocked).read()).toEqual(PEERS);
    rmSync(blocked, { recursive: true });
    writeFileSync(blocked, "");
    one.write([]);
    await one.flushed();
    expect(warnings).toHaveLength(2);
  });
});

describe("reading", () => {
  test("none is no warning", () => {
    expect(snapshot(join(directory, "gone")).read()).toEqual([]);
    expect(warnings).toEqual([]);
  });

  const huge = JSON.stringify({ format: 1, peers: Array.from({ length: 60_000 }, () => "sip:192.0.2.2:5060") });
  const damaged: [what: string, octets: string | Uint8Array, peers: string[]][] = [
    ["empty", "", []],
    ["cut off", '{"format":1,"peers":["sip:192.0.2.2:5060', []],
    ["no JSON", new Uint8Array(4_096), []],
    ["of another format", '{"format":2,"peers":[]}', []],
    ["of another shape", '{"format":1,"peers":{"length":3}}', []],
    ["with what is no text in it", '{"format":1,"peers":["sip:192.0.2.2:5060",7]}', []],
    ["nested without an end", "[".repeat(100_000), []],
    ["larger than any of ours", huge, []],
    ["a prototype", '{"__proto__":{"format":1,"peers":["sip:192.0.2.2:5060"]}}', []],
  ];
  for (const [what, octets, peers] of damaged) {
    test(`one that is ${what} is as good as none, with a warning`, () => {
      writeFileSync(place, octets, { mode: 0o600 });
      expect(snapshot().read()).toEqual(peers);
      expect(warnings).toHaveLength(1);
      expect(warnings[0]).toContain("is not used");
    });
  }

  test("more names than a registry holds, and names that are too long, are left out", () => {
    const peers = [`sip:${"x".repeat(300)}`, ...Array.from({ length: 1_500 }, (_, i) => `sip:192.0.2.2:${i + 1}`)];
    writeFileSync(place, JSON.stringify({ format: 1, peers }), { mode: 0o600 });
    expect(snapshot().read()).toEqual(peers.slice(1, 1_001));
  });

  test("what others can write is not used", () => {
    writeFileSync(place, JSON.stringify({ format: 1, peers: PEERS }));
    chmodSync(place, 0o620);
    expect(snapshot().read()).toEqual([]);
    expect(warnings[0]).toContain("others can write to it");
  });

  test("a link, a directory and what belongs to a stranger are not used", () => {
    const target = join(directory, "target");
    writeFileSync(target, JSON.stringify({ format: 1, peers: PEERS }), { mode: 0o600 });
    symlinkSync(target, place);
    expect(snapshot().read()).toEqual([]);
    rmSync(place);
    mkdirSync(place);
    expect(snapshot().read()).toEqual([]);
    rmSync(place, { recursive: true });
    expect(warnings).toHaveLength(2);
    if (process.getuid?.() !== 0) return;
    writeFileSync(place, JSON.stringify({ format: 1, peers: PEERS }), { mode: 0o600 });
    chownSync(place, 4_711, 4_711);
    expect(snapshot().read()).toEqual([]);
    expect(warnings[2]).toContain("belongs to user 4711");
  });

  test("what a killed process had begun is removed, what a living one writes is not", () => {
    const child = Bun.spawnSync(["true"]);
    const [dead, alive, other] = [`${place}.${child.pid}`, `${place}.${process.ppid}`, `${place}.bak`];
    for (const path of [dead, alive, other]) writeFileSync(path, "x");
    snapshot().read();
    expect(
      readdirSync(directory)
        .map((name) => join(directory, name))
        .sort(),
    ).toEqual([alive, other].sort());
  });
});

describeWhere(missingPrograms("mkfifo"), "a FIFO at its place", () => {
  test("does not make the start wait", () => {
    expect(Bun.spawnSync(["mkfifo", place]).success).toBe(true);
    expect(snapshot().read()).toEqual([]);
    expect(warnings[0]).toContain("it is no file");
  });
});
