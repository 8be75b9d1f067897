/**
 * DNS messages: a question to octets, and what an answer says to exactly that question (RFC 1035 §4, RFC 2782, RFC 2308).
 *
 * The only file that knows `dns-packet` (docs/decisions/0005-dns-questions.md). Everything in an answer is a stranger's word: an
 * answer that is malformed, or answers something else, is none.
 */
import { type Answer, type DecodedPacket, decode, encode, RECURSION_DESIRED } from "dns-packet";
import { canonicalIp } from "../core/endpoint.ts";
import type { Duration } from "../core/time.ts";

export type DnsType = "A" | "AAAA" | "SRV";

export interface DnsQuestion {
  /** 16 bits by chance. */
  readonly id: number;
  /** In lower case, without a dot at the end. */
  readonly name: string;
  readonly type: DnsType;
}

/** An address with port 0, or an SRV record's target in lower case with its port. */
export interface DnsRecord {
  readonly host: string;
  readonly port: number;
}

export type DnsReply =
  | { readonly kind: "records"; readonly records: readonly DnsRecord[]; readonly ttlMs: Duration }
  /** There is no such name, or where `exists` the name has no such records. */
  | { readonly kind: "nothing"; readonly exists: boolean; readonly ttlMs: Duration }
  /** The name is another's alias, and this answer says nothing of the other: ask for that. */
  | { readonly kind: "alias"; readonly name: string; readonly ttlMs: Duration }
  /** Too long for a datagram: ask over TCP. */
  | { readonly kind: "truncated" }
  /** The server will not or cannot say. */
  | { readonly kind: "failure"; readonly reason: string };

/**
 * Longest answer that is read: 256 SRV records fit. A name may jump through a message (§4.1.4), so the work that a hostile
 * answer makes grows with the square of its length: 81 ms for 32 KiB, half of that for this.
 */
export const DNS_MESSAGE_BYTES_MAX = 16_384;
const HEADER_BYTES = 12;
/** Aliases that are followed inside one answer. */
const ALIASES_MAX = 16;
/** RFC 2181 §8 lets a receiver cap what it keeps. */
const TTL_MS_MAX = 86_400_000;
/** RFC 2308 §5 likewise: a record that the operator adds is seen within this. */
const NEGATIVE_TTL_MS_MAX = 60_000;
/** For a "nothing" without the SOA record that would say. */
const NEGATIVE_TTL_MS = 5_000;

export function writeQuestion({ id, name, type }: DnsQuestion): Uint8Array {
  return encode({ type: "query", id, flags: RECURSION_DESIRED, questions: [{ name, type, class: "IN" }] });
}

/** @returns what the octets say to `question`; `undefined` where they are no answer to it */
export function readReply(bytes: Uint8Array, question: DnsQuestion): DnsReply | undefined {
  if (!answers(bytes, question)) return undefined;
  const packet = decodePacket(bytes);
  if (packet === undefined) return { kind: "failure", reason: "what is malformed" };
  if (packet.flag_tc) return { kind: "truncated" };
  // The types of dns-packet leave it out; it is there.
  const { rcode } = packet as DecodedPacket & { rcode: string };
  if (rcode !== "NOERROR" && rcode !== "NXDOMAIN") return { kind: "failure", reason: rcode };
  return follow(packet, question, rcode === "NXDOMAIN");
}

/**
 * RFC 5452 §9.1: same id, same question, letter by letter but for their case; the socket has seen to the address. It is
 * looked at before anything is decoded, so that a stranger's datagram costs next to nothing.
 */
function answers(bytes: Uint8Array, question: DnsQuestion): boolean {
  const asked = writeQuestion(question);
  if (bytes.length < asked.length || bytes[0] !== asked[0] || bytes[1] !== asked[1]) return false;
  const isResponse = ((bytes[2] as number) & 0xf8) === 0x80;
  if (!isResponse || bytes[4] !== 0 || bytes[5] !== 1) return false;
  for (let i = HEADER_BYTES; i < asked.length; i++)
    if (lowerCase(bytes[i] as number) !== lowerCase(asked[i] as number)) return false;
  return true;
}

/** An octet of a label or a length: lengths are below 64, which is below the letters. */
function lowerCase(octet: number): number {
  return octet >= 0x41 && octet <= 0x5a ? octet + 0x20 : octet;
}

function decodePacket(bytes: Uint8Array): DecodedPacket | undefined {
  if (bytes.length > DNS_MESSAGE_BYTES_MAX) return undefined;
  try {
    const packet = decode(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
    // dns-packet reads on behind the end of an address that is cut off; this is how far it came.
    return decode.bytes > bytes.length ? undefined : packet;
  } catch {
    return undefined;
  }
}

/** From the name that was asked, alias by alias, to the records of the last one. */
function follow(packet: DecodedPacket, question: DnsQuestion, isUnknown: boolean): DnsReply {
  const answers = packet.answers ?? [];
  let { name } = question;
  let ttlMs = TTL_MS_MAX;
  for (let aliases = 0; aliases <= ALIASES_MAX; aliases++) {
    const found = answers.filter((answer) => answer.type === question.type && isOf(answer, name));
    if (found.length > 0) return recordsOf(found, ttlMs);
    const alias = answers.find((answer) => answer.type === "CNAME" && isOf(answer, name));
    if (alias?.type !== "CNAME") {
      const isOver = aliases === 0 || isUnknown || soaTtl(packet) !== undefined;
      if (!isOver) return { kind: "alias", name, ttlMs };
      return { kind: "nothing", exists: !isUnknown, ttlMs: soaTtl(packet) ?? NEGATIVE_TTL_MS };
    }
    ttlMs = Math.min(ttlMs, ttlOf(alias));
    name = alias.data.toLowerCase();
  }
  return { kind: "failure", reason: `more than ${ALIASES_MAX} aliases, or a circle of them` };
}

function isOf(answer: Answer, name: string): boolean {
  return answer.name.toLowerCase() === name;
}

function recordsOf(found: readonly Answer[], aliasTtlMs: Duration): DnsReply {
  const records: DnsRecord[] = [];
  let ttlMs = aliasTtlMs;
  for (const answer of found) {
    const record = recordOf(answer);
    if (record !== undefined) records.push(record);
    ttlMs = Math.min(ttlMs, ttlOf(answer));
  }
  return records.length === 0 ? { kind: "nothing", exists: true, ttlMs } : { kind: "records", records, ttlMs };
}

function recordOf(answer: Answer): DnsRecord | undefined {
  if (answer.type === "SRV") {
    const { target, port } = answer.data;
    // A target of "." says that the service is not there (RFC 2782).
    return target === "." || !port ? undefined : { host: target.toLowerCase(), port };
  }
  const ip = answer.type === "A" || answer.type === "AAAA" ? canonicalIp(answer.data) : undefined;
  return ip === undefined ? undefined : { host: ip, port: 0 };
}

function ttlOf(answer: Answer): Duration {
  return "ttl" in answer ? ttlMs(answer.ttl ?? 0) : 0;
}

/** RFC 2181 §8: a TTL with its highest bit set is 0. */
function ttlMs(seconds: number): Duration {
  return seconds > 0x7fff_ffff ? 0 : Math.min(seconds * 1_000, TTL_MS_MAX);
}

/** RFC 2308 §5: the lower of the SOA record's own TTL and its last field. */
function soaTtl(packet: DecodedPacket): Duration | undefined {
  for (const answer of packet.authorities ?? [])
    if (answer.type === "SOA") return Math.min(ttlOf(answer), ttlMs(answer.data.minimum ?? 0), NEGATIVE_TTL_MS_MAX);
  return undefined;
}
