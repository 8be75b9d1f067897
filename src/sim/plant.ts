/**
 * Mistakes that a simulator makes on purpose. Each breaks one rule of the node at the seam between core and bus, as a bug in
 * the core would, so that a run shows whether somebody notices: an invariant that no plant can break checks nothing.
 */
import { concatBytes, decodeUtf8, encodeUtf8, spanOf, viewOf } from "../core/bytes.ts";
import type { ChannelMessage, NodeEvent, Output } from "../node/io.ts";
import type { Plant, SimNode } from "./bus.ts";

const PLANTS = {
  /** A retransmission runs the handler again. */
  "forget-dedupe": forgetDedupe,
  /** A node list names a node that nobody has heard of. */
  "list-made-up": listMadeUp,
  /** `active` in somebody else's list makes a peer active. */
  "trust-foreign-active": trustForeignActive,
  /** Each tenth outcome never comes. */
  "lose-outcome": loseOutcome,
  /** No limit of what is in flight to one peer. */
  "no-window": (): Plant => ({ options: { window: 100_000 } }),
  /** Peers at one address without a limit: all that somebody names there is taken. */
  crowd,
  /** Each tenth request has two answers. */
  "answer-twice": answerTwice,
  /** Messages of one sender are handed on in turned order. */
  "turn-order": turnOrder,
  /** A name that others mention is probed sixty times at once. */
  amplify,
} as const satisfies Record<string, () => Plant>;

export type PlantName = keyof typeof PLANTS;

export const PLANT_NAMES = Object.keys(PLANTS) as PlantName[];

/** A plant remembers what it has seen: each run gets a new one. */
export function plant(name: PlantName): Plant {
  return PLANTS[name]();
}

function messageOf(output: Output): ChannelMessage | undefined {
  return output.type === "event" && output.event.type === "message" ? output.event.message : undefined;
}

function forgetDedupe(): Plant {
  const last = new Map<SimNode, { message: ChannelMessage; octets: string; isNew: boolean }>();
  return {
    polled(node, output) {
      const message = messageOf(output);
      if (message !== undefined) last.set(node, { message, octets: decodeUtf8(message.request.bytes), isNew: true });
      return [output];
    },
    handed(node, input, bus) {
      const seen = last.get(node);
      if (seen === undefined || input.type !== "received" || node.core === undefined) return;
      if (decodeUtf8(input.bytes) !== seen.octets) return;
      if (seen.isNew) seen.isNew = false;
      else bus.emit(node, { type: "message", message: seen.message });
    },
  };
}

function listMadeUp(): Plant {
  let count = 0;
  return {
    polled(_node, output) {
      if (output.type !== "transmit" || ++count % 50 !== 0) return [output];
      const text = decodeUtf8(viewOf(output));
      const length = /\r\nContent-Length: (\d+)\r\n/.exec(text);
      if (length === null || !text.includes(";status=active\r\n")) return [output];
      const line = "sip:10.66.66.66:5060;status=active\r\n";
      const changed = text.replace(length[0], `\r\nContent-Length: ${Number(length[1]) + line.length}\r\n`);
      return [{ ...output, ...spanOf(encodeUtf8(changed + line)) }];
    },
  };
}

function trustForeignActive(): Plant {
  return {
    handed(node, input, bus) {
      const core = node.core;
      if (core === undefined || input.type !== "received") return;
      for (const [, uri] of decodeUtf8(input.bytes).matchAll(/(sip:[^;\r\n]*(?:;transport=tcp)?);status=active\r\n/g)) {
        const peer = core.nodes().find((one) => one.uri === uri);
        if (peer !== undefined && peer.status !== "active" && peer.resolvedIp !== input.from.ip)
          bus.call(node, (now) => core.setStatus(peer.uri, "active", now));
      }
    },
  };
}

function crowd(): Plant {
  return {
    handed(node, input, bus) {
      if (node.core === undefined || input.type !== "received") return;
      const { ip } = input.from;
      for (const [, uri = "", host] of decodeUtf8(input.bytes).matchAll(/(sip:([\d.]+):7\d+);status=active\r\n/g))
        if (host === ip) bus.call(node, (now) => node.core?.add(uri, undefined, now));
    },
  };
}

function loseOutcome(): Plant {
  let count = 0;
  return {
    polled: (_node, output) =>
      output.type === "event" && output.event.type === "outcome" && ++count % 10 === 0 ? [] : [output],
  };
}

const RESPONSE = encodeUtf8("SIP/2.0 200 ");

function answerTwice(): Plant {
  let count = 0;
  return {
    polled(_node, output) {
      const octets = output.type === "transmit" ? viewOf(output) : undefined;
      if (output.type !== "transmit" || !RESPONSE.every((octet, i) => octets?.[i] === octet)) return [output];
      if (++count % 10 !== 0) return [output];
      const second = concatBytes([encodeUtf8("SIP/2.0 500 "), viewOf(output).subarray(RESPONSE.length)]);
      return [output, { ...output, ...spanOf(second) }];
    },
  };
}

/** So many inputs may overtake a message. */
const TURN_INPUTS = 4;

function turnOrder(): Plant {
  const kept = new Map<SimNode, { event: NodeEvent; waits: number }>();
  let count = 0;
  return {
    polled(node, output) {
      if (output.type !== "event" || messageOf(output) === undefined) return [output];
      const before = kept.get(node);
      kept.delete(node);
      if (before !== undefined) return [{ ...output }, { type: "event", event: before.event }];
      if (++count % 3 !== 0) return [output];
      kept.set(node, { event: output.event, waits: TURN_INPUTS });
      return [];
    },
    handed(node, _input, bus) {
      const before = kept.get(node);
      if (before === undefined || node.core === undefined) return;
      if (--before.waits > 0) return;
      kept.delete(node);
      bus.emit(node, before.event);
    },
  };
}

function amplify(): Plant {
  return {
    polled(_node, output) {
      if (output.type !== "transmit" || !decodeUtf8(viewOf(output).subarray(0, 60)).includes("@10.66."))
        return [output];
      return Array.from({ length: 60 }, () => output);
    },
  };
}
