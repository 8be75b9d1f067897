/**
 * From a queue, or a broker, to a channel: an item goes to all active nodes, or to one, and is done when each of those has said what
 * counts (answers.ts). What a node has said is remembered here while the item is tried again, so that it is sent again to those only that
 * it is right for; a daemon that begins anew asks all of them, with the same `X-DMQ-Id`.
 */
import type { Handler, Verdict } from "../consume/consumer.ts";
import { UsageError } from "../core/errors.ts";
import type { Duration } from "../core/time.ts";
import type { PeerInfo } from "../node/io.ts";
import type { ExtraHeaders } from "../node/kdmq.ts";
import type { Item } from "../queue/operation.ts";
import { answerOf, decide, isFinal, type NodeAnswer } from "./answers.ts";
import { Counters } from "./counters.ts";
import type { LinkNode, Sparing } from "./host.ts";
import type { Sending } from "./kinds.ts";
import { writePath } from "./path.ts";
import { HELD_MS, type Repeats } from "./repeat.ts";

/** Items under way at a time; for each node one after the other with `ordered=yes`. */
export const WINDOW = 16;

/** What a datagram carries, with room for headers. */
const DATAGRAM_BODY_MAX = 60_000;
const STREAM_BODY_MAX = 1024 * 1024;

/** An item whose one node is known, but not active, is looked at again after that. */
const ABSENT_MS: Duration = 2_000;

/** Items whose answers so far are remembered. */
const REMEMBERED_MAX = 10_000;

/** An item on its way to nodes. */
export interface Letter {
  channel: string;
  contentType: string;
  /** The same in every try. */
  messageId: string;
  /** Where it has been, this link included. */
  path: readonly string[];
  headers: ExtraHeaders | undefined;
  /** URI of the one node that it goes to; `undefined`: to all. */
  node: string | undefined;
  /** URI of a node that has it already. */
  except: string | undefined;
  /** It comes from the bus, so it may be on its way round. */
  isWatched: boolean;
}

/** It does not go out. */
export interface Refused {
  verdict: Verdict;
  /** Because it would go round. */
  isLoop: boolean;
}

/** What the items of a link are: of a queue (letters.ts), or of a broker (deliver.ts). */
export interface Letters {
  of(item: Item): Letter | Refused;
  /** Of an item; at the last try the link has to say what becomes of it. */
  maxTries(): Promise<number>;
}

export interface OutboundHost {
  node: LinkNode;
  letters: Letters;
  repeats: Repeats;
  warnings: Sparing;
}

type Answers = Map<string, NodeAnswer>;

export class Outbound {
  readonly counters: Counters = new Counters();
  private readonly link: Sending & { name: string };
  private readonly host: OutboundHost;
  /** By the item's number: what nodes have said of it. */
  private readonly said = new Map<number, Answers>();
  /** By the node's URI: the last request on its way. */
  private readonly lines = new Map<string, Promise<unknown>>();

  constructor(link: Sending & { name: string }, host: OutboundHost) {
    this.link = link;
    this.host = host;
  }

  /** True while there is somebody to send to: until then items stay in the queue. */
  isOpen(): boolean {
    const { node, require } = this.link;
    if (node === undefined) return require === "none" || this.activePeers().length > 0;
    if (!node.isPlain) return true;
    return this.activePeers().some(({ uri }) => uri === node.text);
  }

  private activePeers(): PeerInfo[] {
    return this.host.node.nodes().filter(({ status }) => status === "active");
  }

  /** Of a consumer (consume/consumer.ts) with a batch of one. */
  readonly handle: Handler = async ([item], stop) => {
    this.counters.in++;
    const verdict = await this.pass(item as Item, stop);
    if (verdict.type === "done") this.counters.out++;
    else if (verdict.type === "failed" && verdict.fate.counts !== false) this.counters.failed++;
    return verdict;
  };

  private async pass(item: Item, stop: AbortSignal): Promise<Verdict> {
    const letter = this.host.letters.of(item);
    if ("verdict" in letter) {
      if (letter.isLoop) this.counters.heldBack++;
      return letter.verdict;
    }
    const said: Answers = new Map(this.said.get(item.seq));
    const targets = this.targetsFor(letter, said);
    if (!Array.isArray(targets)) return targets;
    // Nobody but the node that it came from, or nobody at all and none is required.
    if (targets.length === 0 && said.size === 0) return { type: "done" };
    const tooLarge = this.tooLargeFor(item, targets);
    if (tooLarge !== undefined) return failed(tooLarge, { fate: "dead", reason: `too-large: ${tooLarge}` });
    const held = this.heldBack(item, letter);
    if (held !== undefined) return held;
    const sent = targets.map(async ({ uri }) => said.set(uri, await this.sendInTurn(item, letter, uri, stop)));
    await Promise.all(sent);
    if (stop.aborted || [...said.values()].some(({ type }) => type === "cancelled")) return { type: "stopped" };
    return this.settle(item, said);
  }

  /** @returns those that have yet to say what counts; or what becomes of the item, where there is nobody to ask */
  private targetsFor({ node, except }: Letter, said: Answers): PeerInfo[] | Verdict {
    const { require } = this.link;
    const isOpen = ({ uri }: PeerInfo): boolean => !isFinalIn(said, uri);
    if (node !== undefined) return this.oneTarget(node, isOpen, said);
    const active = this.activePeers();
    const targets = active.filter((peer) => isOpen(peer) && peer.uri !== except);
    // Those that said nothing and are gone have had their chance: the others are asked no more.
    if (active.length > 0 || require === "none" || said.size > 0) return targets;
    return failed("has nobody to send to", { fate: "now", counts: false });
  }

  private oneTarget(uri: string, isOpen: (peer: PeerInfo) => boolean, said: Answers): PeerInfo[] | Verdict {
    const peer = this.host.node.nodes().find((one) => one.uri === uri);
    if (peer === undefined) {
      said.set(uri, { type: "silent", text: "no such node" });
      return [];
    }
    if (peer.status === "active") return isOpen(peer) ? [peer] : [];
    return failed(`waits for node ${uri}`, { fate: "retry", counts: false, delayMs: ABSENT_MS });
  }

  private tooLargeFor({ value }: Item, targets: readonly PeerInfo[]): string | undefined {
    const isDatagram = targets.some(({ transport }) => transport === "udp");
    const most = this.link.maxBody ?? (isDatagram ? DATAGRAM_BODY_MAX : STREAM_BODY_MAX);
    return value.length > most ? `${value.length} octets, ${most} are the most` : undefined;
  }

  private heldBack({ value, tries }: Item, { channel, isWatched }: Letter): Verdict | undefined {
    const { link, host } = this;
    // In a circle everything comes round by the bus; a further try is no new round.
    if (!isWatched || tries > 1) return undefined;
    const verdict = host.repeats.pass(channel, value, performance.now());
    if (verdict === "go") return undefined;
    this.counters.heldBack++;
    if (verdict === "held") {
      const text = "a message comes back again and again, so it pauses: is there a circle over another node?";
      host.warnings.warn(`repeats ${link.name}`, `link ${link.name}: ${text}`, { channel, bytes: value.length });
    }
    return failed("pauses for this body", { fate: "retry", counts: false, delayMs: HELD_MS });
  }

  /** The lines keep the order of calls, so this one must be called in the order of the items. */
  private sendInTurn(item: Item, letter: Letter, uri: string, stop: AbortSignal): Promise<NodeAnswer> {
    if (!this.link.ordered) return this.send(item, letter, uri, stop);
    const turn = (this.lines.get(uri) ?? Promise.resolve()).then(() => this.send(item, letter, uri, stop));
    this.lines.set(uri, turn);
    return turn.finally(() => {
      if (this.lines.get(uri) === turn) this.lines.delete(uri);
    });
  }

  private async send(item: Item, letter: Letter, uri: string, signal: AbortSignal): Promise<NodeAnswer> {
    if (signal.aborted) return { type: "cancelled", text: "given up" };
    // The one before may have shown that it is gone: what waited behind that need not run into the same silence.
    if (!this.activePeers().some((peer) => peer.uri === uri)) return { type: "silent", text: "not active" };
    const { channel, contentType, messageId, path, headers } = letter;
    const options = {
      contentType,
      messageId,
      path: writePath(path),
      signal,
      ...(headers !== undefined && { headers }),
    };
    try {
      return answerOf(await this.host.node.send(channel, uri, item.value, options));
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      if (error.code === "no-such-node") return { type: "silent", text: "not known any more" };
      return { type: "refused", text: `cannot be sent: ${error.message}` };
    }
  }

  private async settle(item: Item, said: Answers): Promise<Verdict> {
    const decision = decide(said, this.link.require, false);
    if (decision.type === "done") return this.forget(item, { type: "done" });
    if (item.tries >= (await this.host.letters.maxTries())) {
      const last = decide(said, this.link.require, true);
      if (last.type === "done") return this.forget(item, { type: "done" });
      return this.forget(item, failed(`had these answers: ${last.reason}`, { fate: "dead", reason: last.reason }));
    }
    if (decision.type === "dead")
      return this.forget(item, failed(decision.reason, { fate: "dead", reason: decision.reason }));
    if (decision.afresh) this.said.delete(item.seq);
    else this.remember(item, said);
    const { reason, delayMs } = decision;
    return failed(`had these answers: ${reason}`, {
      fate: "retry",
      reason,
      ...(delayMs !== undefined && { delayMs }),
    });
  }

  private remember(item: Item, said: Answers): void {
    this.said.delete(item.seq);
    this.said.set(item.seq, said);
    if (this.said.size > REMEMBERED_MAX) this.said.delete(this.said.keys().next().value as number);
  }

  private forget(item: Item, verdict: Verdict): Verdict {
    this.said.delete(item.seq);
    return verdict;
  }
}

function isFinalIn(said: Answers, uri: string): boolean {
  const answer = said.get(uri);
  return answer !== undefined && isFinal(answer);
}

/** @param why  completes "the item …" */
export function failed(why: string, fate: Extract<Verdict, { type: "failed" }>["fate"]): Verdict {
  return { type: "failed", why, fate };
}
