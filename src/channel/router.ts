/**
 * The application's routing script, in TypeScript: a function that sees SIP requests before the node does, and decides
 * (Kamailio's `request_route`). Whatever it does, each request gets one answer in time.
 *
 * A route that returns nothing leaves the request to the node; a status or an answer ends it; `handle` and `process` give a
 * KDMQ request to its channel, as `dmq_handle_message` and `dmq_process_message` do.
 */
import { DeadlineQueue } from "../core/deadline-queue.ts";
import { UsageError } from "../core/errors.ts";
import type { Duration, Instant } from "../core/time.ts";
import type { Answer, HandlerMode, IncomingRequest } from "../node/io.ts";
import { answerOf, type HandlerResult } from "./channel.ts";

/** Nothing: the node serves the request, unless the route has given it away. A status or an answer: that is sent. */
export type Route = (request: IncomingRequest) => HandlerResult | Promise<HandlerResult>;

export interface RouteOptions {
  /** The route sees KDMQ requests too, notifications included; what it returns nothing for is handled as ever. */
  kdmq?: boolean;
}

/** What the router needs of its surroundings. */
export interface RouterHost {
  answer(id: number, answer: Answer): void;
  /** Does with the request what happens without a route. */
  serve(id: number): void;
  /** Gives a KDMQ request to its channel. @throws UsageError for another method */
  take(id: number, mode: HandlerMode): void;
  now(): Instant;
  failed(cause: unknown): void;
  /** The next deadline may have moved. */
  changed(): void;
}

/** `open`: the route decides; `taken`: a channel answers it, the route may go on; `ended`: the route is through with it. */
type State = "open" | "taken" | "ended";

const RETRY_AFTER_SECONDS = 2;

export class Router {
  private readonly states = new Map<number, State>();
  private readonly late = new DeadlineQueue<number>();
  private readonly host: RouterHost;
  private timeoutMs: Duration;
  private route: Route | undefined;

  /** @param timeoutMs  from a request's arrival to the 503 that answers for a late route */
  constructor(host: RouterHost, timeoutMs: Duration) {
    this.host = host;
    this.timeoutMs = timeoutMs;
  }

  /** Counts for the requests that come from now on. */
  setTimeout(timeoutMs: Duration): void {
    this.timeoutMs = timeoutMs;
  }

  /**
   * Sets the route.
   *
   * @returns the function that takes it away again, and says whether it was there
   * @throws UsageError if there is one
   */
  set(route: Route): () => boolean {
    if (this.route !== undefined) throw new UsageError("the node has a route already");
    this.route = route;
    let isSet = true;
    return () => {
      if (!isSet) return false;
      isSet = false;
      this.route = undefined;
      return true;
    };
  }

  /** Takes a request; the route or the node answers it. */
  receive(request: IncomingRequest): void {
    if (this.route === undefined) {
      this.host.serve(request.id);
      return;
    }
    this.states.set(request.id, "open");
    this.late.set(request.id, this.host.now() + this.timeoutMs);
    this.run(request, this.route);
    this.host.changed();
  }

  private run(request: IncomingRequest, route: Route): void {
    let result: HandlerResult | Promise<HandlerResult>;
    try {
      result = route(request);
    } catch (cause) {
      this.fail(request, cause);
      return;
    }
    if (result instanceof Promise)
      result.then(
        (value) => this.complete(request, value),
        (cause) => this.fail(request, cause),
      );
    else this.complete(request, result);
  }

  /**
   * Gives a KDMQ request to its channel: `queued` to one of `num_workers` workers, `inline` at once.
   *
   * @param goOn  Kamailio's `continue`: the route goes on with the request. Without it the request is ended
   * @throws UsageError for another method, or a request that was given away, ended or answered before
   */
  take(request: IncomingRequest, mode: HandlerMode, goOn: boolean): void {
    const state = this.states.get(request.id);
    if (state !== "open")
      throw new UsageError(`the ${request.method} request was given to a channel or answered before`);
    this.host.take(request.id, mode);
    this.states.set(request.id, goOn ? "taken" : "ended");
  }

  /** @throws UsageError if the route has ended the request: it gave it away without `continue` */
  checkOpen(request: IncomingRequest): void {
    if (this.states.get(request.id) === "ended")
      throw new UsageError(`the ${request.method} request was given to its channel without continue`);
  }

  handleTimeout(now: Instant): void {
    for (let id = this.late.take(now); id !== undefined; id = this.late.take(now)) {
      const isOpen = this.states.get(id) === "open";
      // A route that never ends is forgotten: it can do nothing with the request any more.
      this.states.delete(id);
      if (!isOpen) continue;
      this.host.answer(id, { status: 503, reason: "Route Too Late", retryAfterSeconds: RETRY_AFTER_SECONDS });
    }
  }

  nextTimeout(): Instant | undefined {
    return this.late.next();
  }

  private complete({ id }: IncomingRequest, result: HandlerResult): void {
    if (!this.close(id)) return;
    if (result === undefined || result === null) this.host.serve(id);
    else this.host.answer(id, answerOf(result));
  }

  private fail({ id }: IncomingRequest, cause: unknown): void {
    this.host.failed(cause);
    if (this.close(id)) this.host.answer(id, { status: 500, reason: "Route Failed" });
  }

  /** @returns true if the request still waits for an answer of the route's */
  private close(id: number): boolean {
    const state = this.states.get(id);
    this.states.delete(id);
    this.late.delete(id);
    return state === "open";
  }
}
