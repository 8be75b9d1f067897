/**
 * How data looks on stdout: a table on a terminal, tab-separated lines with `--plain` and in pipes, JSON with `--json`
 * (design.md section 5). Remote text is escaped in all of them, so that no peer can move a cursor or forge a column.
 */
import { strictUtf8 } from "../core/bytes.ts";
import type { Arguments } from "./command.ts";
import type { CliContext } from "./context.ts";

export type OutputForm = "table" | "plain" | "json";

/** What `--plain`, `--json` and the terminal ask for. */
export function formOf(context: CliContext, args: Arguments): OutputForm {
  if (args.has("json")) return "json";
  return args.has("plain") || !context.isTty.stdout ? "plain" : "table";
}

/** A result as JSON on one line, or its rows. */
export function writeResult(
  context: CliContext,
  form: OutputForm,
  result: unknown,
  rows: Cell[][],
  header: string[] = [],
): void {
  if (form === "json") writeJson(context, result);
  else writeRows(context, form, header, rows);
}

/** Octets need not be text. */
export type Cell = string | number | boolean | null | Uint8Array;

/** Control characters as `\t`, `\n`, `\r` or `\xHH`, and the backslash doubled: one value stays in one column. */
export function printable(text: string): string {
  let out = "";
  for (const character of text) out += escapeCharacter(character);
  return out;
}

const NAMED_ESCAPES = new Map([
  ["\t", "\\t"],
  ["\n", "\\n"],
  ["\r", "\\r"],
  ["\\", "\\\\"],
]);

function escapeCharacter(character: string): string {
  const named = NAMED_ESCAPES.get(character);
  if (named !== undefined) return named;
  const code = character.codePointAt(0) as number;
  return code < 0x20 || (code >= 0x7f && code < 0xa0) ? `\\x${code.toString(16).padStart(2, "0")}` : character;
}

/** As `printable`, for octets that need not be text: those that are no UTF-8 become `\xHH`. */
export function printableBytes(bytes: Uint8Array): string {
  const text = strictUtf8(bytes);
  if (text !== undefined) return printable(text);
  let out = "";
  for (const byte of bytes) {
    const isAscii = byte < 0x7f;
    out += isAscii ? escapeCharacter(String.fromCharCode(byte)) : `\\x${byte.toString(16)}`;
  }
  return out;
}

function cellText(cell: Cell): string {
  if (cell instanceof Uint8Array) return cell.length === 0 ? "-" : printableBytes(cell);
  return cell === null || cell === "" ? "-" : printable(String(cell));
}

/** One row of a stream, whose widths nobody knows. */
export function rowText(form: "table" | "plain", row: Cell[]): string {
  return `${row.map(cellText).join(form === "plain" ? "\t" : "  ")}\n`;
}

/** Columns with the header only in a table: a script must not have to skip a line. */
export function writeRows(context: CliContext, form: "table" | "plain", header: string[], rows: Cell[][]): void {
  const lines = rows.map((row) => row.map(cellText));
  if (form === "plain") {
    context.stdout(lines.map((cells) => `${cells.join("\t")}\n`).join(""));
    return;
  }
  const all = header.length > 0 ? [header, ...lines] : lines;
  const widths = (all[0] ?? []).map((_, column) => Math.max(...all.map((cells) => (cells[column] as string).length)));
  const pad = (cell: string, column: number): string => cell.padEnd(widths[column] as number);
  context.stdout(all.map((cells) => `${cells.map(pad).join("  ").trimEnd()}\n`).join(""));
}

/** One value on one line. */
export function writeJson(context: CliContext, value: unknown): void {
  context.stdout(`${JSON.stringify(value)}\n`);
}
