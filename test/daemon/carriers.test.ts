/** Control socket, socket for kamcmd and FIFO for kamctl open together or not at all. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { chmodSync, lstatSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ConfigError, TransportError } from "../../src/core/errors.ts";
import type { Logger } from "../../src/core/logger.ts";
import { openCarriers } from "../../src/daemon/carriers.ts";
import { describeWhere, missingPrograms } from "../helpers/needs.ts";
import { FakeSurface } from "../rpc/fake-surface.ts";

const silent = () => undefined;
const LOG: Logger = { error: silent, warn: silent, info: silent, debug: silent, trace: silent };

let directory: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "dmq-carry-"));
});

afterEach(() => rmSync(directory, { recursive: true, force: true }));

function places(names: { socket?: string; ctl?: string; fifo?: string }) {
  const path = (name: string | undefined): string | undefined =>
    name === undefined ? undefined : join(directory, name);
  return {
    socketPath: path(names.socket ?? "s") as string,
    ctl: path(names.ctl),
    rpcFifo: path(names.fifo),
    rpcFifoReplyDir: undefined,
    rpcGroup: undefined,
  };
}

test("nothing but the control socket is opened where nothing else is wanted", async () => {
  const carriers = await openCarriers(places({}), new FakeSurface(), LOG);
  expect(readdirSync(directory)).toEqual(["s"]);
  await carriers.close();
  expect(readdirSync(directory)).toEqual([]);
});

describeWhere(missingPrograms("mkfifo"), "with a FIFO", () => {
  test("all three are opened, and removed at the end", async () => {
    const carriers = await openCarriers(places({ ctl: "c", fifo: "f" }), new FakeSurface(), LOG);
    expect(readdirSync(directory).sort()).toEqual(["c", "f", "s"]);
    expect([lstatSync(join(directory, "c")).isSocket(), lstatSync(join(directory, "f")).isFIFO()]).toEqual([
      true,
      true,
    ]);
    await carriers.close();
    expect(readdirSync(directory)).toEqual([]);
  });
});

test("where one cannot be opened, the others are closed again", async () => {
  writeFileSync(join(directory, "f"), "mine");
  const opening = openCarriers(places({ ctl: "c", fifo: "f" }), new FakeSurface(), LOG);
  await expect(opening).rejects.toBeInstanceOf(TransportError);
  expect(readdirSync(directory)).toEqual(["f"]);
});

test("a directory for the answers has to be there, and is of no use without the FIFO", async () => {
  const open = (fifo: string | undefined, replyDir: string): Promise<unknown> =>
    openCarriers({ ...places(fifo === undefined ? {} : { fifo }), rpcFifoReplyDir: replyDir }, new FakeSurface(), LOG);
  await expect(open(undefined, directory)).rejects.toThrow("rpc_fifo_reply_dir: got no rpc_fifo");
  for (const replyDir of [join(directory, "gone"), "/dev/null", "/dev/null/x"])
    await expect(open("f", replyDir)).rejects.toThrow(`rpc_fifo_reply_dir: got ${replyDir}`);
  expect(readdirSync(directory)).toEqual([]);
});

test.each([
  [{ ctl: "s" }, "ctl"],
  [{ fifo: "s" }, "rpc_fifo"],
  [{ ctl: "c", fifo: "x/../c" }, "rpc_fifo"],
])("%j has one path for two", async (names, option) => {
  const opening = openCarriers(places(names), new FakeSurface(), LOG);
  await expect(opening).rejects.toBeInstanceOf(ConfigError);
  await expect(opening).rejects.toMatchObject({ code: "config-contradiction", option });
  expect(readdirSync(directory)).toEqual([]);
});

const OWN_GROUP = process.getgid?.() ?? -1;

test("a group gets both sockets, by its number and by its name, and the directory that is made for them", async () => {
  const named = /^([^:]+):[^:]*:(\d+):/m.exec(readFileSync("/etc/group", "utf8")) as RegExpExecArray;
  const isRoot = process.getuid?.() === 0;
  for (const [rpcGroup, number] of [
    [String(OWN_GROUP), OWN_GROUP],
    ...(isRoot ? [[named[1] as string, Number(named[2])] as const] : []),
  ] as const) {
    const names = { ...places({ socket: "new/s", ctl: "new/c" }), rpcGroup };
    const carriers = await openCarriers(names, new FakeSurface(), LOG);
    for (const path of [names.socketPath, names.ctl as string])
      expect([lstatSync(path).mode & 0o777, lstatSync(path).gid]).toEqual([0o660, number]);
    const { mode, gid } = lstatSync(join(directory, "new"));
    expect([mode & 0o777, gid]).toEqual([0o710, number]);
    await carriers.close();
    rmSync(join(directory, "new"), { recursive: true });
  }
});

test("a group that there is not is an error of the configuration, and nothing is opened", async () => {
  const opening = openCarriers({ ...places({}), rpcGroup: "no-such-group" }, new FakeSurface(), LOG);
  await expect(opening).rejects.toMatchObject({ code: "config-invalid-value", option: "rpc_group" });
  expect(readdirSync(directory)).toEqual([]);
});

test("a group that cannot pass the directory is told of", async () => {
  const warnings: string[] = [];
  const log = { ...LOG, warn: (text: string) => void warnings.push(text) };
  for (const [mode, count] of [
    [0o700, 1],
    [0o711, 0],
    [0o710, 0],
  ] as const) {
    chmodSync(directory, mode);
    warnings.length = 0;
    const carriers = await openCarriers({ ...places({}), rpcGroup: String(OWN_GROUP) }, new FakeSurface(), log);
    await carriers.close();
    expect([mode, warnings.length]).toEqual([mode, count]);
  }
});
