/**
 * Exit codes: one table for every command (design.md section 5, docs/CLI.md), and how errors and outcomes map to it.
 */
import { DmqError, RpcError } from "../core/errors.ts";
import type { DeliveryResult } from "../rpc/surface.ts";

export const EXIT = {
  ok: 0,
  no: 1,
  usage: 2,
  notFound: 3,
  unreachable: 4,
  refused: 5,
  timeout: 6,
  partial: 7,
  command: 8,
  state: 9,
  later: 75,
  interrupted: 130,
  terminated: 143,
} as const;

const EXIT_MAX = 255;

/** 202: the channel is declared there, and nobody took the message. */
export function isUnconsumed(result: DeliveryResult): boolean {
  return result.outcome === "delivered" && !result.consumer;
}

/**
 * @param needsConsumer  a 202 counts as a channel that is not there
 * @returns              the exit code of one message to one node
 */
export function exitOfDelivery(result: DeliveryResult, needsConsumer = false): number {
  switch (result.outcome) {
    case "delivered":
      return needsConsumer && isUnconsumed(result) ? EXIT.notFound : EXIT.ok;
    case "rejected":
      return exitOfRejection(result.code);
    case "timeout":
    // The daemon stopped before there was an answer: as after a timeout, it may or may not have happened.
    case "cancelled":
      return EXIT.timeout;
    case "unreachable":
      return EXIT.unreachable;
    case "overloaded":
      return EXIT.refused;
    case "spooled":
      return EXIT.later;
  }
}

function exitOfRejection(code: number | null): number {
  if (code === 404) return EXIT.notFound;
  return code === 408 ? EXIT.timeout : EXIT.refused;
}

/** `--require`: how many of those addressed must have said yes. */
export type Requirement = { type: "all" } | { type: "count"; count: number } | { type: "percent"; percent: number };

/**
 * @param text  `all`, `any`, a number from 1, or `1%` to `100%`
 * @returns     `undefined` where it is none of them
 */
export function parseRequirement(text: string): Requirement | undefined {
  if (text === "all") return { type: "all" };
  if (text === "any") return { type: "count", count: 1 };
  const match = /^([1-9]\d{0,5})(%?)$/.exec(text);
  if (match === null) return undefined;
  const number = Number(match[1]);
  if (match[2] === "") return { type: "count", count: number };
  return number <= 100 ? { type: "percent", percent: number } : undefined;
}

function required(requirement: Requirement, addressed: number): number {
  switch (requirement.type) {
    case "all":
      return addressed;
    case "count":
      return requirement.count;
    case "percent":
      return Math.ceil((addressed * requirement.percent) / 100);
  }
}

/**
 * @returns 0 if enough said yes; 3 if there was nobody to address; 7 if some did, but not enough; where nobody did, the
 *          code of what all met, or 1 if they met different things
 */
export function exitOfBroadcast(
  results: readonly DeliveryResult[],
  requirement: Requirement,
  needsConsumer = false,
): number {
  if (results.length === 0) return EXIT.notFound;
  const codes = results.map((result) => exitOfDelivery(result, needsConsumer));
  const delivered = codes.filter((code) => code === EXIT.ok).length;
  if (delivered >= required(requirement, results.length)) return EXIT.ok;
  const later = codes.filter((code) => code === EXIT.later).length;
  // What is stored may still become what is required.
  if (delivered + later >= required(requirement, results.length)) return EXIT.later;
  if (delivered > 0) return EXIT.partial;
  return new Set(codes).size === 1 ? (codes[0] as number) : EXIT.no;
}

/** JSON-RPC 2.0 section 5.1. */
export const METHOD_NOT_FOUND = -32601;
const INVALID_PARAMS = -32602;

/** @returns the exit code of a failed command; programmer errors are not mapped, they are thrown on by the caller */
export function exitOfError(error: unknown): number {
  if (error instanceof RpcError) return exitOfRpcError(error);
  if (!(error instanceof DmqError)) return EXIT.no;
  switch (error.code) {
    case "usage":
    case "amqp-invalid":
      return EXIT.usage;
    case "no-such-node":
    case "no-such-channel":
    case "no-such-queue":
    case "no-such-item":
    case "amqp-no-such":
      return EXIT.notFound;
    case "queue-full":
    case "queue-busy":
    case "item-refused":
    case "amqp-refused":
      return EXIT.refused;
    case "queue-timeout":
    case "amqp-timeout":
      return EXIT.timeout;
    case "transport-bind":
    case "transport-connect":
    case "transport-send":
    case "tls-refused":
    case "amqp-unreachable":
    case "amqp-login":
      return EXIT.unreachable;
    case "config-unknown-key":
    case "config-invalid-value":
    case "config-contradiction":
    case "config-unreadable":
    case "storage":
      return EXIT.state;
    default:
      return EXIT.no;
  }
}

function exitOfRpcError(error: RpcError): number {
  if (error.code !== "rpc-fault") return EXIT.unreachable;
  const exit = (error.data as { exit?: unknown } | null | undefined)?.exit;
  if (typeof exit === "number" && Number.isInteger(exit) && exit >= 0 && exit <= EXIT_MAX) return exit;
  if (error.fault === METHOD_NOT_FOUND) return EXIT.notFound;
  return error.fault === INVALID_PARAMS ? EXIT.usage : EXIT.no;
}
