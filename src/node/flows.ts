/**
 * The streams of a node: a framer for each flow, the time that a message may take on its way, and the memory that messages which
 * are not there yet may hold together. Whoever is too slow, or holds too much, loses its flow and nobody else does.
 */
import { DeadlineQueue } from "../core/deadline-queue.ts";
import type { Endpoint } from "../core/endpoint.ts";
import type { Duration, Instant } from "../core/time.ts";
import { Framer } from "../sip/framer.ts";
import type { Flow } from "./io.ts";

/** From its first octet a header block may take so long, and a body from the end of its headers. */
export const HEADER_MS_MAX: Duration = 5_000;
export const BODY_MS_MAX: Duration = 30_000;

/** Octets of messages that are not there yet, of all flows together; beyond it whoever holds most loses a flow. */
export const UNFINISHED_BYTES_MAX = 64 * 1024 * 1024;

type Phase = "between" | "header" | "body";

interface State {
  readonly framer: Framer;
  readonly source: Endpoint;
  phase: Phase;
  held: number;
}

/** Why a flow has to be closed. */
export interface Lost {
  readonly flow: Flow;
  readonly source: Endpoint;
  readonly why: string;
}

export class Flows {
  private readonly states = new Map<Flow, State>();
  private readonly late = new DeadlineQueue<Flow>();
  private readonly heldMax: number;
  private held = 0;

  /** @param heldMax  octets of unfinished messages, of all flows together */
  constructor(heldMax: number = UNFINISHED_BYTES_MAX) {
    this.heldMax = heldMax;
  }

  framer(flow: Flow, source: Endpoint): Framer {
    let state = this.states.get(flow);
    if (state === undefined) {
      state = { framer: new Framer(), source, phase: "between", held: 0 };
      this.states.set(flow, state);
    }
    return state.framer;
  }

  /**
   * Looks at a flow after octets of it were taken.
   *
   * @param progressed  a message was complete: what has begun now is another one, with its own time
   * @returns           who has to go because too much is held, `undefined` if nobody
   */
  settle(flow: Flow, progressed: boolean, now: Instant): Lost | undefined {
    const state = this.states.get(flow);
    if (state === undefined) return undefined;
    const held = state.framer.buffered();
    if (held === 0 && state.held === 0) return undefined;
    this.held += held - state.held;
    state.held = held;
    this.time(flow, state, progressed, now);
    return this.held > this.heldMax ? this.largest() : undefined;
  }

  forget(flow: Flow): void {
    this.held -= this.states.get(flow)?.held ?? 0;
    this.states.delete(flow);
    this.late.delete(flow);
  }

  nextTimeout(): Instant | undefined {
    return this.late.next();
  }

  /** @returns a flow whose message took too long; call again until there is none */
  takeLate(now: Instant): Lost | undefined {
    const flow = this.late.take(now);
    const state = flow === undefined ? undefined : this.states.get(flow);
    if (flow === undefined || state === undefined) return undefined;
    const limit = state.phase === "header" ? HEADER_MS_MAX : BODY_MS_MAX;
    return this.lose(flow, state, `its ${state.phase} was not complete after ${limit / 1_000} s`);
  }

  private time(flow: Flow, state: State, progressed: boolean, now: Instant): void {
    const phase = phaseOf(state.framer);
    if (phase === state.phase && !progressed) return;
    state.phase = phase;
    if (phase === "between") this.late.delete(flow);
    else this.late.set(flow, now + (phase === "header" ? HEADER_MS_MAX : BODY_MS_MAX));
  }

  /** By address: many flows with a little each are no better than one with much. */
  private largest(): Lost | undefined {
    const heldBy = new Map<string, number>();
    for (const { source, held } of this.states.values()) heldBy.set(source.ip, (heldBy.get(source.ip) ?? 0) + held);
    let found: [Flow, State] | undefined;
    for (const [flow, state] of this.states) {
      if (found === undefined || weighsMore(state, found[1], heldBy)) found = [flow, state];
    }
    if (found === undefined) return undefined;
    const [flow, state] = found;
    return this.lose(flow, state, `${this.held} octets of unfinished messages are held, most of them from there`);
  }

  /** The framer stays, without its octets, so that what still comes in is not taken for the start of something. */
  private lose(flow: Flow, state: State, why: string): Lost {
    state.framer.abandon();
    this.held -= state.held;
    state.held = 0;
    state.phase = "between";
    this.late.delete(flow);
    return { flow, source: state.source, why };
  }
}

function phaseOf(framer: Framer): Phase {
  if (framer.headerPending()) return "header";
  return framer.bodyPending() ? "body" : "between";
}

function weighsMore(a: State, b: State, heldBy: ReadonlyMap<string, number>): boolean {
  const [ofA = 0, ofB = 0] = [heldBy.get(a.source.ip), heldBy.get(b.source.ip)];
  return ofA === ofB ? a.held > b.held : ofA > ofB;
}
