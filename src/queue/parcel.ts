/**
 * How operations and outcomes cross between threads: as one text, JSON and behind it the octets of all values, a character each. Of all
 * that can be posted a text alone takes no structured clone, which is what most of the time went to: 9 µs an item added and 26 an item
 * taken, instead of 1 and 4, and 45 µs of the 300 between one writer's call and its answer (Bun 1.4.5).
 */
import { EMPTY } from "../core/bytes.ts";
import type { Item, NewItem, Operation, OperationType, Outcome } from "./operation.ts";

/** Operations, with the numbers from `first` on. */
export interface Asked {
  first: number;
  operations: Operation[];
}

/** Their outcomes, and the queues that they touched. */
export interface Answered {
  first: number;
  outcomes: Outcome[];
  touched: string[];
}

const BRINGS_ITEMS: ReadonlySet<OperationType> = new Set<OperationType>(["lease", "peek", "dead"]);

export function packAsked({ first, operations }: Asked): string {
  const values: Uint8Array[] = [];
  const light = operations.map((operation) =>
    operation.type === "add"
      ? { ...operation, items: operation.items.map((item) => lighten(item, values)) }
      : operation,
  );
  return pack({ first, operations: light }, values);
}

/** The values are views of one piece of memory. */
export function unpackAsked(text: string): Asked {
  const { content, octets } = unpack(text);
  const asked = content as Asked;
  let at = 0;
  for (const operation of asked.operations) {
    if (operation.type !== "add") continue;
    for (const item of operation.items as NewItem[]) {
      const end = at + (item.value as unknown as number);
      item.value = octets.subarray(at, end);
      at = end;
    }
  }
  return asked;
}

/** @param operations  what the outcomes are of */
export function packAnswered({ first, outcomes, touched }: Answered, operations: readonly Operation[]): string {
  const values: Uint8Array[] = [];
  const light = outcomes.map((outcome, i) => {
    const items = itemsOf(operations[i] as Operation, outcome);
    return items === undefined ? outcome : { ok: true, answer: items.map((item) => lighten(item, values)) };
  });
  return pack({ first, outcomes: light, touched }, values);
}

/**
 * Each value is a copy: who keeps one keeps none of the others.
 *
 * @param asked  the operation of a number
 */
export function unpackAnswered(text: string, asked: (number: number) => Operation): Answered {
  const { content, octets } = unpack(text);
  const answered = content as Answered;
  let at = 0;
  for (const [i, outcome] of answered.outcomes.entries()) {
    for (const item of itemsOf(asked(answered.first + i), outcome) ?? []) {
      const end = at + (item.value as unknown as number);
      item.value = octets.slice(at, end);
      at = end;
    }
  }
  return answered;
}

function itemsOf({ type }: Operation, outcome: Outcome): Item[] | undefined {
  return outcome.ok && BRINGS_ITEMS.has(type) ? (outcome.answer as Item[]) : undefined;
}

/** For JSON: in the place of the value is its length. */
function lighten<T extends { value: Uint8Array }>(item: T, values: Uint8Array[]): Omit<T, "value"> & { value: number } {
  values.push(item.value);
  return { ...item, value: item.value.length };
}

function pack(content: object, values: readonly Uint8Array[]): string {
  const json = JSON.stringify(content);
  const octets = values.length === 0 ? "" : Buffer.concat(values).toString("latin1");
  return `${json.length}:${json}${octets}`;
}

function unpack(text: string): { content: unknown; octets: Uint8Array } {
  const from = text.indexOf(":") + 1;
  const to = from + Number(text.slice(0, from - 1));
  const { buffer, byteOffset, length } = to === text.length ? EMPTY : Buffer.from(text.slice(to), "latin1");
  return { content: JSON.parse(text.slice(from, to)), octets: new Uint8Array(buffer, byteOffset, length) };
}
