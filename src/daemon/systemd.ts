/**
 * What a supervisor is told: sd_notify(3) over `NOTIFY_SOCKET`, with the watchdog of `WATCHDOG_USEC`. A message that does
 * not arrive is a warning in the log and never an end: the node is there for the bus, not for its supervisor.
 */
import type { Logger } from "../core/logger.ts";
import type { Duration } from "../core/time.ts";
import type { Datagrams } from "./libc.ts";

export type Environment = Readonly<Record<string, string | undefined>>;

/** Messages that wait for a busy supervisor; beyond it the oldest is dropped. */
const WAITING_MAX = 16;
const RETRY_MS: Duration = 100;
/** So often a message is tried again: five seconds. */
const RETRIES_MAX = 50;

/** A node that was found behind its deadlines is looked at again so soon: it may have been stopped and just gone on. */
const WATCHDOG_AGAIN_MS: Duration = 50;

/** `sun_path` of unix(7), for abstract names too. */
const NAME_BYTES_MAX = 107;

export class Systemd {
  private readonly datagrams: Datagrams;
  private readonly periodMs: Duration | undefined;
  private readonly log: Logger;
  private readonly waiting: string[] = [];
  private retries = 0;
  private retryTimer: ReturnType<typeof setTimeout> | undefined;
  private watchdogTimer: ReturnType<typeof setTimeout> | undefined;
  private lastStatus = "";
  private isReady = false;
  private isStopping = false;
  private complained = false;

  /** @internal Use `openSystemd`. @param periodMs  that of the watchdog */
  constructor(datagrams: Datagrams, periodMs: Duration | undefined, log: Logger) {
    this.datagrams = datagrams;
    this.periodMs = periodMs;
    this.log = log;
  }

  /** The start, or a reload, is through. */
  ready(): void {
    if (this.isStopping) return;
    this.isReady = true;
    this.say("READY=1", `STATUS=${this.lastStatus}`);
  }

  /** One line for `systemctl status`; the same one again is not sent. */
  status(text: string): void {
    if (text === this.lastStatus) return;
    this.lastStatus = text;
    if (this.isReady && !this.isStopping) this.say(`STATUS=${text}`);
  }

  /** A reload begins; `ready` ends it, however it ended (`Type=notify-reload` waits for it). */
  reloading(): void {
    if (!this.isStopping) this.say("RELOADING=1", `MONOTONIC_USEC=${this.datagrams.monotonicUsec()}`);
  }

  stopping(): void {
    if (this.isStopping) return;
    this.isStopping = true;
    this.say("STOPPING=1", "STATUS=leaving");
  }

  /**
   * Says `WATCHDOG=1` twice in each period of `WATCHDOG_USEC`, as long as the node keeps up.
   *
   * @param behindMs  how far the node is behind its own deadlines; that the timer of this runs proves the event loop
   */
  watch(behindMs: () => Duration): void {
    const { periodMs } = this;
    if (periodMs === undefined) return;
    const beat = (): void => {
      const isAlive = behindMs() < periodMs / 2;
      if (isAlive) this.say("WATCHDOG=1");
      this.watchdogTimer = setTimeout(beat, isAlive ? periodMs / 2 : WATCHDOG_AGAIN_MS);
    };
    beat();
  }

  close(): void {
    clearTimeout(this.watchdogTimer);
    clearTimeout(this.retryTimer);
    this.datagrams.close();
  }

  private say(...lines: string[]): void {
    if (this.waiting.length === WAITING_MAX) this.waiting.shift();
    this.waiting.push(lines.join("\n"));
    if (this.retryTimer === undefined) this.flush();
  }

  private flush(): void {
    this.retryTimer = undefined;
    for (let text = this.waiting[0]; text !== undefined; text = this.waiting[0]) {
      const sent = this.datagrams.send(text);
      if (sent === "full" && this.retries < RETRIES_MAX) {
        this.retries++;
        this.retryTimer = setTimeout(() => this.flush(), RETRY_MS);
        return;
      }
      this.retries = 0;
      this.waiting.shift();
      if (sent === "sent") this.complained = false;
      else this.complain(sent === "full" ? "it takes nothing" : sent.reason);
    }
  }

  private complain(reason: string): void {
    if (this.complained) return;
    this.complained = true;
    this.log.warn(`the supervisor at NOTIFY_SOCKET is not told: ${reason}`);
  }
}

/**
 * @returns `undefined` where nobody asks for notifications, or, with a warning, where they cannot be sent
 */
export async function openSystemd(env: Environment, log: Logger): Promise<Systemd | undefined> {
  const name = env.NOTIFY_SOCKET;
  if (name === undefined || name === "") return undefined;
  if (!/^[/@]./.test(name) || Buffer.byteLength(name) > NAME_BYTES_MAX) {
    log.warn(
      `NOTIFY_SOCKET ${JSON.stringify(name)} is not used: expected a path or an abstract name that begins with @`,
    );
    return undefined;
  }
  try {
    const { openDatagrams } = await import("./libc.ts");
    return new Systemd(openDatagrams(name), watchdogPeriod(env), log);
  } catch (cause) {
    log.warn(`NOTIFY_SOCKET is not used: ${cause instanceof Error ? cause.message : String(cause)}`);
    return undefined;
  }
}

/** @returns milliseconds, `undefined` where there is no watchdog, or it is that of another process (sd_watchdog_enabled(3)) */
export function watchdogPeriod(env: Environment): Duration | undefined {
  const { WATCHDOG_USEC: usec, WATCHDOG_PID: pid } = env;
  if (usec === undefined || !/^[1-9]\d{0,15}$/.test(usec)) return undefined;
  if (pid !== undefined && pid !== "" && pid !== String(process.pid)) return undefined;
  return Number(usec) / 1_000;
}
