/** Control socket, socket for kamcmd and FIFO for kamctl open together or not at all. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { lstatSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
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
