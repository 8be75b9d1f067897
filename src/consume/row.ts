/** An item as JSON: what `dmq queue fetch --json` prints, and what a command gets with `--batch` (queue.md B2). */
import { strictUtf8 } from "../core/bytes.ts";
import type { DeadItem, Item } from "../queue/operation.ts";

export interface ItemRow {
  /** What `dmq queue ack` takes, where the item is leased; else its number. */
  id: string;
  key: string;
  value?: string;
  /** Instead of `value`, where that is no UTF-8. */
  value_base64?: string;
  content_type: string;
  headers: Readonly<Record<string, string>>;
  /** ISO 8601. */
  added: string;
  tries: number;
  from: string | null;
  channel: string | null;
}

export interface DeadRow extends ItemRow {
  reason: string;
  exit_code: number | null;
  stderr: string;
  died: string;
}

/** @param id  instead of the item's number, which is the same in every delivery */
export function itemRow(item: Item, id = String(item.seq)): ItemRow {
  const text = strictUtf8(item.value);
  const value = text === undefined ? { value_base64: Buffer.from(item.value).toString("base64") } : { value: text };
  const { key, contentType, headers, addedAt, tries, from, channel } = item;
  const added = new Date(addedAt).toISOString();
  return { id, key, ...value, content_type: contentType, headers, added, tries, from, channel };
}

export function deadRow(item: DeadItem): DeadRow {
  const { reason, exitCode, stderr, diedAt } = item;
  return { ...itemRow(item), reason, exit_code: exitCode, stderr, died: new Date(diedAt).toISOString() };
}
