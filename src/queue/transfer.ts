/**
 * Items to and from a table of Kamailio's mqueue (table.ts), in pieces: each is stored on its new side before it is deleted on the
 * old one. A crash between the two leaves a piece on both sides, never on none.
 */
import type { Item, NewItem } from "./operation.ts";
import { KAMAILIO_KEY_CHARS, KAMAILIO_VALUE_CHARS, type KamailioTable } from "./table.ts";

/** Rows that go over in one piece. */
const PIECE = 500;

/** Where items are taken off. */
export interface Source {
  /** @returns leased items, none where nothing is ready */
  next(max: number): Promise<readonly Item[]>;
  ack(items: readonly Item[]): Promise<unknown>;
}

export interface Written {
  count: number;
  /** Of these, empty or too long for Kamailio. */
  odd: number;
}

/**
 * Adds all rows, the oldest first.
 *
 * @param keep  they stay in the table
 * @returns     how many there were
 * @throws      what `add` throws, and QueueError `storage` for the table; rows that were not stored are still in it
 */
export async function takeIn(
  table: KamailioTable,
  add: (items: readonly NewItem[]) => Promise<unknown>,
  keep: boolean,
): Promise<number> {
  let count = 0;
  for (let after = Number.MIN_SAFE_INTEGER; ; ) {
    const rows = table.read(after, PIECE);
    if (rows.length === 0) return count;
    await add(rows.map(({ key, value }) => ({ key, value })));
    const ids = rows.map(({ id }) => id);
    if (!keep) table.remove(ids);
    after = ids.at(-1) as number;
    count += ids.length;
  }
}

/**
 * Takes off what is ready, into the table.
 *
 * @param isOver  asked before each piece: true ends it
 */
export async function giveOut(table: KamailioTable, source: Source, isOver = () => false): Promise<Written> {
  const written: Written = { count: 0, odd: 0 };
  while (!isOver()) {
    const items = await source.next(PIECE);
    if (items.length === 0) break;
    write(table, items, written);
    await source.ack(items);
  }
  return written;
}

/**
 * Copies what nobody has leased, in the order of their numbers: what was given back is among the others again.
 *
 * @param peek  gives items with numbers beyond `after`
 */
export async function copyOut(
  table: KamailioTable,
  peek: (after: number, count: number) => Promise<readonly Item[]>,
): Promise<Written> {
  const written: Written = { count: 0, odd: 0 };
  for (let after = 0; ; ) {
    const items = await peek(after, PIECE);
    if (items.length === 0) return written;
    const sorted = items.toSorted((a, b) => a.seq - b.seq);
    write(table, sorted, written);
    after = (sorted.at(-1) as Item).seq;
  }
}

function write(table: KamailioTable, items: readonly Item[], written: Written): void {
  table.write(items);
  written.count += items.length;
  written.odd += items.filter(isOdd).length;
}

function isOdd({ key, value }: Item): boolean {
  const isEmpty = key === "" || value.length === 0;
  return isEmpty || key.length > KAMAILIO_KEY_CHARS || value.length > KAMAILIO_VALUE_CHARS || value.includes(0);
}
