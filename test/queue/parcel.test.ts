/** Goal: whatever is asked and answered crosses between the threads unchanged. Method: there and back, with any text and any octets. */
import { expect, test } from "bun:test";
import fc from "fast-check";
import type { Item, NewItem, Operation, Outcome } from "../../src/queue/operation.ts";
import { packAnswered, packAsked, unpackAnswered, unpackAsked } from "../../src/queue/parcel.ts";

// Lone surrogates and characters beyond Latin-1 are in it.
const text = fc.string({ unit: fc.integer({ min: 0, max: 0xffff }).map((code) => String.fromCharCode(code)) });
const octets = fc.uint8Array({ maxLength: 300 });
const texts = fc.dictionary(text, text);

const newItem: fc.Arbitrary<NewItem> = fc.record(
  { key: text, value: octets, headers: texts, path: fc.array(text), dedupe: text, delayMs: fc.nat() },
  { requiredKeys: ["key", "value"], noNullPrototype: true },
);
const operation: fc.Arbitrary<Operation> = fc.oneof(
  fc.record({ type: fc.constant("add" as const), queue: text, items: fc.array(newItem) }),
  fc.record({ type: fc.constant("ack" as const), ids: fc.array(text) }),
);

const item: fc.Arbitrary<Item> = fc.record({
  seq: fc.nat(),
  id: text,
  queue: text,
  key: text,
  value: octets,
  contentType: text,
  headers: texts,
  path: fc.array(text),
  from: fc.option(text),
  channel: fc.option(text),
  addedAt: fc.nat(),
  dueAt: fc.nat(),
  tries: fc.nat(),
});
const failed = fc.record({ ok: fc.constant(false as const), code: fc.constant("storage" as const), message: text });
const answered: fc.Arbitrary<readonly [Operation, Outcome]> = fc.oneof(
  fc
    .record({ ok: fc.constant(true as const), answer: fc.array(item) })
    .map((outcome) => [{ type: "peek", queue: "q", count: 1 }, outcome] as const),
  fc.nat().map(
    (answer) =>
      [
        { type: "ack", ids: [] },
        { ok: true as const, answer },
      ] as const,
  ),
  failed.map((outcome) => [{ type: "lease", queue: "q", count: 1, leaseMs: 1, holder: "h" }, outcome] as const),
);

test("what is asked", () => {
  fc.assert(
    fc.property(fc.nat(), fc.array(operation), (first, operations) => {
      expect(unpackAsked(packAsked({ first, operations }))).toEqual({ first, operations });
    }),
  );
});

test("what is answered, each value apart from the others", () => {
  fc.assert(
    fc.property(fc.nat(), fc.array(answered), fc.array(text), (first, all, touched) => {
      const operations = all.map(([one]) => one);
      const outcomes = all.map(([, outcome]) => outcome);
      const packed = packAnswered({ first, outcomes, touched }, operations);
      const back = unpackAnswered(packed, (number) => operations[number - first] as Operation);
      expect(back).toEqual({ first, outcomes, touched });
      for (const outcome of back.outcomes)
        if (outcome.ok && Array.isArray(outcome.answer))
          for (const { value } of outcome.answer as Item[]) expect(value.buffer.byteLength).toBe(value.length);
    }),
  );
});
