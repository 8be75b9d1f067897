/** Writes of one go: together, in order, and none left behind. */
import { expect, test } from "bun:test";
import { Writable } from "node:stream";
import { gatherWrites } from "../../src/amqp/gather.ts";

/** A stream that notes what it was handed at a time. */
function noting(): { stream: Writable; runs: string[][] } {
  const runs: string[][] = [];
  const stream = new Writable({
    highWaterMark: 8,
    write(chunk, _encoding, done) {
      runs.push([String(chunk)]);
      done();
    },
    writev(chunks, done) {
      runs.push(chunks.map(({ chunk }) => String(chunk)));
      done();
    },
  });
  gatherWrites(stream);
  return { stream, runs };
}

test("what is written in one go is one write, and the next go another", async () => {
  const { stream, runs } = noting();
  for (const text of ["a", "b", "c"]) stream.write(text);
  expect(runs).toEqual([]);
  await new Promise<void>((resolve) => setImmediate(resolve));
  stream.write("d");
  stream.write("e");
  await new Promise<void>((resolve) => setImmediate(resolve));
  expect(runs).toEqual([
    ["a", "b", "c"],
    ["d", "e"],
  ]);
});

test("who writes more than the stream wants to hold is told so, and when it wants more", async () => {
  const { stream, runs } = noting();
  expect(stream.write("1234")).toBe(true);
  expect(stream.write("56789")).toBe(false);
  await new Promise<void>((resolve) => stream.once("drain", () => resolve()));
  expect(runs).toEqual([["1234", "56789"]]);
});

test("an end in the same go loses nothing", async () => {
  const { stream, runs } = noting();
  stream.write("a");
  stream.write("b");
  await new Promise<void>((resolve) => stream.end(() => resolve()));
  expect(runs).toEqual([["a", "b"]]);
});
