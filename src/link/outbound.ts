/**
 * From a queue to a channel: an item goes to all active nodes, or to one, and is done when each of those has said what counts
 * (answers.ts). What a node has said is remembered here while the item is tried again, so that it is sent again to those only that
 * it is right for; a daemon that begins anew asks all of them, with the same `X-DMQ-Id`.
 */
import type { Handler, Verdict } from "../consume/consumer.ts";
import { UsageError } from "../core/errors.ts";
import type { Duration } from "../core/time.ts";
import type { PeerInfo } from "../node/io.ts";
import { MESSAGE_ID_HEADER } from "../node/kdmq.ts";
import type { Item } from "../queue/operation.ts";
import { answerOf, decide, isFinal, type NodeAnswer } from "./answers.ts";
import { Counters } from "./counters.ts";
import type { OutboundLink } from "./definition.ts";
import type { LinkNode, Sparing, Store } from "./host.ts";
import { linkId, loopIn, writePath } from "./path.ts";
import { HELD_MS, type Repeats } from "./repeat.ts";
import type { TemplateFacts } from "./template.ts";

/** Items under way at a time; for each node one after the other with `ordered=yes`. */
export const WINDOW = 16;

/** What a datagram carries, with room for headers. */
const DATAGRAM_BODY_MAX = 60_000;
const STREAM_BODY_MAX = 1024 * 1024;

/** An item whose one node is known, but not active, is looked at again after that. */
const ABSENT_MS: Duration = 2_000;

/** Items whose answers so far are remembered. */
const REMEMBERED_MAX = 10_000;

export interface OutboundHost {
  node: LinkNode;
  store: Store;
  repeats: Repeats;
  warnings: Sparing;
}

type Answers = Map<string, NodeAnswer>;

export class Outbound {
  readonly counters: Counters = new Counters();
  private readonly link: OutboundLink;
  private readonly host: OutboundHost;
  /** By the item's number: what nodes have said of it. */
  private readonly said = new Map<number, Answers>();
  /** By the node's URI: the last request on its way. */
  private readonly lines = new Map<string, Promise<unknown>>();

  constructor(link: OutboundLink, host: OutboundHost) {
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
    const { link, host } = this;
    const why = loopIn(item.path, linkId(host.node.uri(), link.name)) ?? this.echoOf(item);
    if (why !== undefined) {
      this.counters.heldBack++;
      return failed(`would make it go round: ${why}`, { fate: "dead", reason: `loop: ${why}` });
    }
    const said: Answers = new Map(this.said.get(item.seq));
    const targets = this.targetsFor(item, said);
    if (!Array.isArray(targets)) return targets;
    // Nobody but the node that it came from, or nobody at all and none is required.
    if (targets.length === 0 && said.size === 0) return { type: "done" };
    const tooLarge = this.tooLargeFor(item, targets);
    if (tooLarge !== undefined) return failed(tooLarge, { fate: "dead", reason: `too-large: ${tooLarge}` });
    const held = this.heldBack(item);
    if (held !== undefined) return held;
    const sent = targets.map(async ({ uri }) => said.set(uri, await this.sendInTurn(item, uri, stop)));
    await Promise.all(sent);
    if (stop.aborted || [...said.values()].some(({ type }) => type === "cancelled")) return { type: "stopped" };
    return this.settle(item, said);
  }

  /** What came from this channel is not sent there again. */
  private echoOf({ channel }: Item): string | undefined {
    if (this.link.echo || channel !== this.link.channel) return undefined;
    return `it came from channel ${channel}, and echo=yes is not set`;
  }

  /** @returns those that have yet to say what counts; or what becomes of the item, where there is nobody to ask */
  private targetsFor(item: Item, said: Answers): PeerInfo[] | Verdict {
    const { node, require } = this.link;
    const isOpen = ({ uri }: PeerInfo): boolean => !isFinalIn(said, uri);
    if (node !== undefined) return this.oneTarget(node.fill(factsOf(item)), isOpen, said);
    const active = this.activePeers();
    // With an item of the bus the node that it came from knows it already.
    const targets = active.filter((peer) => isOpen(peer) && !(this.link.echo && peer.uri === item.from));
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

  private heldBack({ channel, value, tries }: Item): Verdict | undefined {
    const { link, host } = this;
    // In a circle everything comes round by the bus; a further try is no new round.
    if (channel === null || tries > 1) return undefined;
    const verdict = host.repeats.pass(link.channel, value, performance.now());
    if (verdict === "go") return undefined;
    this.counters.heldBack++;
    if (verdict === "held") {
      const text = "a message comes back again and again, so it pauses: is there a circle over another node?";
      host.warnings.warn(`repeats ${link.name}`, `link ${link.name}: ${text}`, { channel, bytes: value.length });
    }
    return failed("pauses for this body", { fate: "retry", counts: false, delayMs: HELD_MS });
  }

  /** The lines keep the order of calls, so this one must be called in the order of the items. */
  private sendInTurn(item: Item, uri: string, stop: AbortSignal): Promise<NodeAnswer> {
    if (!this.link.ordered) return this.send(item, uri, stop);
    const turn = (this.lines.get(uri) ?? Promise.resolve()).then(() => this.send(item, uri, stop));
    this.lines.set(uri, turn);
    return turn.finally(() => {
      if (this.lines.get(uri) === turn) this.lines.delete(uri);
    });
  }

  private async send(item: Item, uri: string, signal: AbortSignal): Promise<NodeAnswer> {
    const { node } = this.host;
    if (signal.aborted) return { type: "cancelled", text: "given up" };
    // The one before may have shown that it is gone: what waited behind that need not run into the same silence.
    if (!this.activePeers().some((peer) => peer.uri === uri)) return { type: "silent", text: "not active" };
    const own = linkId(node.uri(), this.link.name);
    try {
      const report = await node.send(this.link.channel, uri, item.value, {
        contentType: item.contentType,
        messageId: item.headers[MESSAGE_ID_HEADER] ?? messageIdOf(node.uri(), item),
        path: writePath([...item.path, own]),
        signal,
      });
      return answerOf(report);
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      if (error.code === "no-such-node") return { type: "silent", text: "not known any more" };
      return { type: "refused", text: `cannot be sent: ${error.message}` };
    }
  }

  private async settle(item: Item, said: Answers): Promise<Verdict> {
    const decision = decide(said, this.link.require, false);
    if (decision.type === "done") return this.forget(item, { type: "done" });
    if (item.tries >= (await this.maxTries())) {
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

  /** The queue's own bound holds, too: at the last try the link has to say what becomes of the item. */
  private async maxTries(): Promise<number> {
    const [report] = await this.host.store.perform({ type: "report", queue: this.link.queue });
    return Math.min(this.link.maxTries, report?.definition.maxTries ?? this.link.maxTries);
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

function failed(why: string, fate: Extract<Verdict, { type: "failed" }>["fate"]): Verdict {
  return { type: "failed", why, fate };
}

/** The same in every try, and no other item's: not even that of a store which was begun anew. */
function messageIdOf(uri: string, { queue, seq, addedAt }: Item): string {
  return `${linkId(uri, queue)}/${seq}.${addedAt.toString(36)}`;
}

function factsOf({ channel, from, contentType, value, headers, key }: Item): TemplateFacts {
  const header = (name: string): string =>
    Object.entries(headers).find(([one]) => one.toLowerCase() === name.toLowerCase())?.[1] ?? "";
  return { channel: channel ?? "", from: from ?? "", contentType, body: value, header, key };
}
