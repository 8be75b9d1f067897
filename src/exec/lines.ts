/** Octets to lines of text, with a bound on each: what is beyond it is cut, so a line without an end takes no memory. */

/** Characters of a line that are kept. */
const LINE_CHARACTERS_MAX = 1_000;

export class LineSplitter {
  private readonly onLine: (line: string) => void;
  private readonly decoder = new TextDecoder();
  private rest = "";

  constructor(onLine: (line: string) => void) {
    this.onLine = onLine;
  }

  /** Takes a chunk; octets that are no UTF-8 become U+FFFD. */
  push(chunk: Uint8Array): void {
    const lines = this.decoder.decode(chunk, { stream: true }).split("\n");
    for (const [index, line] of lines.entries()) {
      if (this.rest.length < LINE_CHARACTERS_MAX) this.rest += line.slice(0, LINE_CHARACTERS_MAX - this.rest.length);
      if (index < lines.length - 1) this.emit();
    }
  }

  /** Gives what came after the last line end. */
  end(): void {
    if (this.rest !== "") this.emit();
  }

  private emit(): void {
    const line = this.rest.endsWith("\r") ? this.rest.slice(0, -1) : this.rest;
    this.rest = "";
    if (line !== "") this.onLine(line);
  }
}
