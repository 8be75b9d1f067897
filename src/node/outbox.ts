/** What the node wants done, in order, until the driver has polled it away. */
import type { NodeEvent, Output } from "./io.ts";

export class Outbox {
  private items: Output[] = [];
  private head = 0;

  push(output: Output): void {
    this.items.push(output);
  }

  event(event: NodeEvent): void {
    this.items.push({ type: "event", event });
  }

  /** Nothing waits to be polled. */
  isEmpty(): boolean {
    return this.head === this.items.length;
  }

  poll(): Output | undefined {
    if (this.head === this.items.length) {
      if (this.head > 0) {
        this.items = [];
        this.head = 0;
      }
      return undefined;
    }
    return this.items[this.head++];
  }
}
