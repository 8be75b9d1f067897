/**
 * The ladder of a simulated run: who sent what to whom, when, and what the network did to it. It keeps the last lines
 * for reading and a hash over everything, so that "the same seed gives the same trace" is one comparison.
 *
 * Lines are kept as they happened and become text only when somebody reads them: nearly all runs pass and are not read.
 */
import { decodeUtf8 } from "../core/bytes.ts";
import type { Instant } from "../core/time.ts";

/**
 * What became of a message. `arrived` and `copy` (a duplicate) are written down on arrival, the others when it was
 * given up: `lost` by chance, `cut` by a partition, `closed` nobody listens there, `silent` the host is gone,
 * `reset` the stream ended under it, `full` it does not fit a datagram.
 */
export type Mark = "arrived" | "copy" | "lost" | "cut" | "closed" | "silent" | "reset" | "full";

interface Line {
  readonly at: Instant;
  readonly from: string;
  readonly to: string;
  readonly mark: Mark | "note";
  /** Octets of a message, or the text of a note. */
  readonly what: Uint8Array | string;
}

/** What identifies a SIP message in a ladder and in an invariant; fields are `""` where the message has none. */
export interface MessageSummary {
  firstLine: string;
  callId: string;
  cseq: string;
  branch: string;
}

const MARKS: Record<Mark, string> = {
  arrived: "──▶",
  copy: "══▶",
  lost: "──✗ lost",
  cut: "──✗ cut",
  closed: "──✗ closed port",
  silent: "──✗ host gone",
  reset: "──✗ reset",
  full: "──✗ too large",
};

const FLOAT = new Float64Array(1);
const WORDS = new Uint32Array(FLOAT.buffer);
const FNV_PRIME = 0x01000193;

export class Trace {
  readonly seed: number;
  private readonly limit: number;
  private lines: Line[] = [];
  private written = 0;
  private low = 0x811c9dc5;
  private high = 0x9dc5811c;

  /**
   * @param seed   named in the text, so that a ladder in a log says how to get it again
   * @param limit  lines kept for reading; the hash covers all
   */
  constructor(seed: number, limit = 2_000) {
    this.seed = seed;
    this.limit = limit;
  }

  /** Lines written so far, the forgotten ones included. */
  get count(): number {
    return this.written;
  }

  message(at: Instant, from: string, to: string, mark: Mark, bytes: Uint8Array): void {
    this.add({ at, from, to, mark, what: bytes });
  }

  /** A fact beside the messages: a start, a partition, an outcome. */
  note(at: Instant, who: string, text: string): void {
    this.add({ at, from: who, to: "", mark: "note", what: text });
  }

  /** 64 bits over every line so far, as hexadecimal: equal for equal runs. */
  hash(): string {
    return (this.high >>> 0).toString(16).padStart(8, "0") + (this.low >>> 0).toString(16).padStart(8, "0");
  }

  /** The last `lines` lines, oldest first, below a head that names the seed. */
  text(lines = 60): string {
    const shown = this.lines.slice(-lines);
    const head = `seed ${this.seed}, trace ${this.hash()}, last ${shown.length} of ${this.written} lines`;
    return [head, ...shown.map(formatLine)].join("\n");
  }

  private add(line: Line): void {
    this.written++;
    this.lines.push(line);
    // Dropping half at a time keeps the cost of forgetting constant per line.
    if (this.lines.length >= this.limit * 2) this.lines = this.lines.slice(-this.limit);
    FLOAT[0] = line.at;
    this.mix(WORDS[0] as number);
    this.mix(WORDS[1] as number);
    this.mixText(line.from);
    this.mixText(line.to);
    this.mixText(line.mark);
    if (typeof line.what === "string") this.mixText(line.what);
    else this.mixBytes(line.what);
  }

  private mix(word: number): void {
    this.low = Math.imul(this.low ^ word, FNV_PRIME);
    this.high = Math.imul(this.high ^ (word + (this.low >>> 16)), FNV_PRIME);
  }

  private mixText(text: string): void {
    for (let i = 0; i < text.length; i++) this.mix(text.charCodeAt(i));
    this.mix(text.length);
  }

  private mixBytes(bytes: Uint8Array): void {
    let low = this.low;
    for (let i = 0; i < bytes.length; i++) low = Math.imul(low ^ (bytes[i] as number), FNV_PRIME);
    this.low = low;
    this.mix(bytes.length);
  }
}

function formatLine(line: Line): string {
  const time = (line.at / 1_000).toFixed(3).padStart(10);
  if (line.mark === "note") return `${time}  ${line.from}: ${line.what}`;
  const { firstLine, cseq, branch } = summarize(line.what as Uint8Array);
  const facts = cseq === "" ? "" : `  [${cseq} ${branch.slice(-8)}]`;
  return `${time}  ${line.from} ${MARKS[line.mark]} ${line.to}  ${firstLine}${facts}`;
}

/** Reads what a ladder shows from a whole message or from the chunk that begins one; it never fails on other octets. */
export function summarize(bytes: Uint8Array): MessageSummary {
  const lines = decodeUtf8(bytes.subarray(0, 1_500)).split("\r\n");
  const summary: MessageSummary = { firstLine: lines[0] ?? "", callId: "", cseq: "", branch: "" };
  for (const line of lines.slice(1)) {
    if (line === "") break;
    const colon = line.indexOf(":");
    const name = line.slice(0, colon).trim().toLowerCase();
    const value = line.slice(colon + 1).trim();
    if (name === "call-id" || name === "i") summary.callId = value;
    else if (name === "cseq") summary.cseq = value;
    else if ((name === "via" || name === "v") && summary.branch === "") summary.branch = branchOf(value);
  }
  if (summary.firstLine.length > 100) summary.firstLine = `${summary.firstLine.slice(0, 99)}…`;
  return summary;
}

function branchOf(via: string): string {
  const start = via.indexOf(";branch=");
  if (start === -1) return "";
  const end = via.indexOf(";", start + 1);
  return via.slice(start + 8, end === -1 ? undefined : end);
}
