/** What the node wants done, in order, until the driver has polled it away. */
import type { NodeEvent, Output } from "./io.ts";

type Waiting = Exclude<Output, { type: "event" }> | NodeEvent;

export class Outbox {
  /** Used again when it is empty; slots behind `head` and from `tail` on hold nothing. */
  private readonly items: (Waiting | undefined)[] = [];
  private head = 0;
  private tail = 0;
  /** The one wrapper of all events: whoever polls takes the event out before he polls again. */
  private readonly wrapper: { type: "event"; event: NodeEvent } = { type: "event", event: { type: "left" } };

  push(output: Exclude<Output, { type: "event" }>): void {
    this.items[this.tail++] = output;
  }

  event(event: NodeEvent): void {
    this.items[this.tail++] = event;
  }

  poll(): Output | undefined {
    if (this.head === this.tail) {
      this.head = 0;
      this.tail = 0;
      return undefined;
    }
    const item = this.items[this.head] as Waiting;
    this.items[this.head++] = undefined;
    if (item.type === "transmit" || item.type === "close" || item.type === "resolve") return item;
    this.wrapper.event = item;
    return this.wrapper;
  }
}
