/**
 * A command as an operator types it, taken apart into an argument vector. White space separates; quotes and the backslash
 * group, by the rules of a POSIX shell (XCU §2.2). Nothing is expanded: no variable, pattern, pipe or redirection, so
 * nothing that a remote sends can become one. Who wants those writes `sh -c '…'`.
 */
import { UsageError } from "../core/errors.ts";

const WHITE = " \t\r\n";

/** What a backslash escapes within double quotes; before anything else it stands for itself. */
const ESCAPED_IN_DOUBLE_QUOTES = '"\\$`';

/**
 * @returns at least one word; words may be empty (`''`), but not the first, which is the program
 * @throws  UsageError for an unclosed quote, a backslash at the end, a NUL, and a command without a program
 */
export function splitWords(command: string): [program: string, ...rest: string[]] {
  if (command.includes("\0")) throw new UsageError("the command holds a NUL, which no argument can");
  const words: string[] = [];
  let word: string | undefined;
  let at = 0;
  while (at < command.length) {
    const mark = command[at] as string;
    if (WHITE.includes(mark)) {
      if (word !== undefined) words.push(word);
      word = undefined;
      at++;
      continue;
    }
    const piece = readPiece(command, at);
    word = (word ?? "") + piece.text;
    at = piece.end;
  }
  if (word !== undefined) words.push(word);
  const [program, ...rest] = words;
  if (program === undefined || program === "") throw new UsageError("the command names no program");
  return [program, ...rest];
}

interface Piece {
  text: string;
  end: number;
}

/** One character, escaped character or quoted text. */
function readPiece(command: string, at: number): Piece {
  const mark = command[at] as string;
  if (mark === "'") return readSingleQuoted(command, at);
  if (mark === '"') return readDoubleQuoted(command, at);
  if (mark !== "\\") return { text: mark, end: at + 1 };
  const next = command[at + 1];
  if (next === undefined) throw new UsageError("the command ends with a backslash that escapes nothing");
  return { text: next, end: at + 2 };
}

function readSingleQuoted(command: string, at: number): Piece {
  const close = command.indexOf("'", at + 1);
  if (close === -1) throw unclosed("'", at);
  return { text: command.slice(at + 1, close), end: close + 1 };
}

function readDoubleQuoted(command: string, at: number): Piece {
  let text = "";
  for (let i = at + 1; i < command.length; i++) {
    const mark = command[i] as string;
    if (mark === '"') return { text, end: i + 1 };
    const next = command[i + 1];
    if (mark === "\\" && next !== undefined && ESCAPED_IN_DOUBLE_QUOTES.includes(next)) {
      text += next;
      i++;
    } else {
      text += mark;
    }
  }
  throw unclosed('"', at);
}

function unclosed(quote: string, at: number): UsageError {
  return new UsageError(`the quote ${quote} at character ${at + 1} of the command is not closed`);
}
