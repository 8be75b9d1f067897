/**
 * How much waits for handlers: requests and their octets, for each channel and together. A channel whose handler is slow fills its
 * own share, and is answered 503 before it takes that of others.
 */

/** What waits for one channel, or for the route. */
export interface Share {
  readonly name: string;
  messages: number;
  bytes: number;
}

/** Octets of the requests that wait for one channel, and for all of them. */
export const SHARE_BYTES_MAX = 32 * 1024 * 1024;
export const ALL_BYTES_MAX = 128 * 1024 * 1024;
/** Channels that can be full at a time before a further one feels it. */
export const FULL_SHARES = 4;

/** Shares that are remembered although nothing waits: names come from remotes, so there is an end to them. */
const IDLE_SHARES_MAX = 64;

export class Shares {
  private readonly byName = new Map<string, Share>();
  private readonly all: Share = { name: "", messages: 0, bytes: 0 };
  /** Nearly every message is for the channel of the one before it. */
  private last: Share = { name: "", messages: 0, bytes: 0 };

  /**
   * @param messagesMax  requests that may wait for one channel; `FULL_SHARES` times as many for all of them
   * @returns            the share that the request now counts in, for `leave`; `undefined` where there is no room
   */
  enter(name: string, bytes: number, messagesMax: number): Share | undefined {
    const share = this.shareOf(name);
    const { all } = this;
    if (share.messages >= messagesMax || all.messages >= FULL_SHARES * messagesMax) return undefined;
    if (share.bytes + bytes > SHARE_BYTES_MAX || all.bytes + bytes > ALL_BYTES_MAX) return undefined;
    share.messages++;
    share.bytes += bytes;
    all.messages++;
    all.bytes += bytes;
    return share;
  }

  leave(share: Share, bytes: number): void {
    share.messages--;
    share.bytes -= bytes;
    this.all.messages--;
    this.all.bytes -= bytes;
    if (share.messages === 0 && this.byName.size > IDLE_SHARES_MAX) this.byName.delete(share.name);
  }

  /** Requests that wait for this channel. */
  waitingFor(name: string): number {
    return this.byName.get(name)?.messages ?? 0;
  }

  private shareOf(name: string): Share {
    const { last } = this;
    // One that was forgotten may not be counted in again: the map would have another one of its name.
    if (last.name === name && last.messages > 0) return last;
    let share = this.byName.get(name);
    if (share === undefined) {
      share = { name, messages: 0, bytes: 0 };
      this.byName.set(name, share);
    }
    this.last = share;
    return share;
  }
}
