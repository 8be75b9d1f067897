/**
 * Cuts what comes out of a FIFO into JSON objects. Several writers share a FIFO, and nothing says where one of them begins:
 * a request ends with the brace that closes it, wherever chunks and lines end. `kamctl rpc` writes one line, `kamctl
 * monitor` several.
 *
 * What is no request is skipped to the end of its line. A brace in the first column begins a request whatever came before
 * it, so that a writer that broke off takes no later one with it. Pure, and no more than one request is kept.
 */

/** Octets of one request. */
export const FIFO_REQUEST_BYTES_MAX: number = 64 * 1024;

export interface Cut {
  /** Not yet checked: braces and brackets are balanced, and no more is known. */
  requests: Uint8Array[];
  /** How often something was skipped. */
  skipped: number;
}

const LF = 0x0a;
const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const OPEN_BRACE = 0x7b;
const WHITESPACE: ReadonlySet<number> = new Set([0x20, 0x09, 0x0d, LF]);
const OPENING: ReadonlySet<number> = new Set([OPEN_BRACE, 0x5b]);
const CLOSING: ReadonlySet<number> = new Set([0x7d, 0x5d]);

export class RequestCutter {
  readonly #request: Uint8Array;
  #state: "between" | "inside" | "skipping" = "between";
  #size = 0;
  #depth = 0;
  #inText = false;
  #isEscaped = false;
  #startsLine = true;

  constructor(bytesMax: number = FIFO_REQUEST_BYTES_MAX) {
    this.#request = new Uint8Array(bytesMax);
  }

  /** Something has begun that has no end yet. */
  get isPartial(): boolean {
    return this.#state !== "between";
  }

  /** Forgets what has begun: the next octet may begin a request. */
  drop(): void {
    this.#state = "between";
  }

  push(chunk: Uint8Array): Cut {
    const cut: Cut = { requests: [], skipped: 0 };
    for (const octet of chunk) this.#take(octet, cut);
    return cut;
  }

  #take(octet: number, cut: Cut): void {
    const startsLine = this.#startsLine;
    this.#startsLine = octet === LF;
    if (octet === OPEN_BRACE && (this.#state === "between" || startsLine)) this.#begin(cut);
    switch (this.#state) {
      case "between":
        if (!WHITESPACE.has(octet)) this.#skip(octet, cut);
        break;
      case "skipping":
        if (octet === LF) this.#state = "between";
        break;
      case "inside":
        this.#keep(octet, cut);
        break;
    }
  }

  #begin(cut: Cut): void {
    if (this.#state === "inside") cut.skipped++;
    this.#state = "inside";
    this.#size = 0;
    this.#depth = 0;
    this.#inText = false;
    this.#isEscaped = false;
  }

  #skip(octet: number, cut: Cut): void {
    cut.skipped++;
    this.#state = octet === LF ? "between" : "skipping";
  }

  #keep(octet: number, cut: Cut): void {
    // JSON has no line end inside a text (RFC 8259 section 7): here something broke off.
    const isBroken = this.#inText && octet === LF;
    if (isBroken || this.#size === this.#request.length) {
      this.#skip(octet, cut);
      return;
    }
    this.#request[this.#size++] = octet;
    if (this.#inText) this.#text(octet);
    else if (octet === QUOTE) this.#inText = true;
    else if (OPENING.has(octet)) this.#depth++;
    else if (CLOSING.has(octet) && --this.#depth === 0) {
      cut.requests.push(this.#request.slice(0, this.#size));
      this.#state = "between";
    }
  }

  #text(octet: number): void {
    if (this.#isEscaped) this.#isEscaped = false;
    else if (octet === BACKSLASH) this.#isEscaped = true;
    else if (octet === QUOTE) this.#inText = false;
  }
}
