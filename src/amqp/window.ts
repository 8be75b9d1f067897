/**
 * What was published on one channel and is not confirmed yet, by delivery tag (a value machine). The library's own signal does not tell
 * when enough is under way, so messages and octets are counted here.
 */
import { assert } from "../core/assert.ts";

export interface WindowLimits {
  readonly messages: number;
  readonly bytes: number;
}

export const WINDOW: WindowLimits = { messages: 500, bytes: 8 * 1024 ** 2 };

/** Settled places are cut off when there are so many of them. */
const CUT = 1_024;

export class Window<T extends { readonly bytes: number }> {
  private readonly limits: WindowLimits;
  private places: (T | undefined)[] = [];
  /** Place of the oldest unconfirmed one. */
  private head = 0;
  /** Delivery tag of place 0; a channel counts from 1. */
  private firstTag = 1;
  private count = 0;
  private octets = 0;

  constructor(limits: WindowLimits) {
    this.limits = limits;
  }

  get size(): number {
    return this.count;
  }

  get bytes(): number {
    return this.octets;
  }

  /** A message that is larger than the window goes alone. */
  hasRoom(bytes: number): boolean {
    if (this.count === 0) return true;
    return this.count < this.limits.messages && this.octets + bytes <= this.limits.bytes;
  }

  /** In the order of publishing: the broker counts as we do. */
  add(item: T): void {
    this.places.push(item);
    this.count++;
    this.octets += item.bytes;
  }

  oldest(): T | undefined {
    return this.places[this.head];
  }

  /** Unconfirmed ones, oldest first. */
  *[Symbol.iterator](): Generator<T> {
    for (let place = this.head; place < this.places.length; place++) {
      const item = this.places[place];
      if (item !== undefined) yield item;
    }
  }

  /**
   * The broker has confirmed, or refused, `tag`.
   *
   * @param multiple  and all before it
   * @param each      called for each that was not settled yet, oldest first
   */
  settle(tag: number, multiple: boolean, each: (item: T) => void): void {
    const last = tag - this.firstTag;
    assert(last < this.places.length, "a broker confirms what was published");
    const settled: T[] = [];
    for (let place = multiple ? this.head : last; place <= last; place++) {
      const item = this.places[place];
      if (item === undefined) continue;
      this.places[place] = undefined;
      this.count--;
      this.octets -= item.bytes;
      settled.push(item);
    }
    while (this.head < this.places.length && this.places[this.head] === undefined) this.head++;
    if (this.head >= CUT) this.cut();
    for (const item of settled) each(item);
  }

  /** Empties it: the channel is gone. @returns what was unconfirmed, oldest first */
  takeAll(): T[] {
    const rest = this.places.filter((item) => item !== undefined);
    this.places = [];
    this.head = 0;
    this.count = 0;
    this.octets = 0;
    return rest;
  }

  private cut(): void {
    this.places.splice(0, this.head);
    this.firstTag += this.head;
    this.head = 0;
  }
}
