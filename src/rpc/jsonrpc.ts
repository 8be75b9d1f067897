/**
 * JSON-RPC 2.0 (jsonrpc.org/specification): text in, text out, over any carrier. Whatever comes in, an answer comes out;
 * nothing throws.
 */
import { DmqError, type ErrorCode } from "../core/errors.ts";
import { METHODS, methodNotFound } from "./methods.ts";
import { type ControlSurface, type FaultData, RpcFault } from "./surface.ts";
import { Turns } from "./turns.ts";

/** Calls in one batch; each of them costs an answer, also where it is nonsense. */
export const BATCH_CALLS_MAX = 1_000;

type Id = string | number | null;

interface Failure {
  code: number;
  message: string;
  data?: FaultData;
}

export type Response = { jsonrpc: "2.0"; id: Id } & ({ result: unknown } | { error: Failure });

/**
 * Runs what a text asks for. The calls of a batch are started in their order and answered in their order; they may run at
 * the same time.
 *
 * @returns the answer as JSON text; `undefined` where there is none to give, because all calls were notifications
 */
export async function answer(surface: ControlSurface, text: string): Promise<string | undefined> {
  const request = parse(text);
  if (request === undefined) return JSON.stringify(failure(null, { code: -32700, message: "Parse error" }));
  if (!Array.isArray(request.value)) {
    const response = await call(surface, request.value);
    return response === undefined ? undefined : JSON.stringify(response);
  }
  const calls: unknown[] = request.value;
  if (calls.length === 0) return JSON.stringify(invalidRequest("empty batch"));
  if (calls.length > BATCH_CALLS_MAX) return JSON.stringify(invalidRequest(`more than ${BATCH_CALLS_MAX} calls`));
  const answers = (await runAll(surface, calls)).filter((response) => response !== undefined);
  return answers.length === 0 ? undefined : JSON.stringify(answers);
}

/** One for all batches: they share the loop. */
const TURNS = new Turns();

async function runAll(surface: ControlSurface, calls: readonly unknown[]): Promise<(Response | undefined)[]> {
  const running: Promise<Response | undefined>[] = [];
  for (const entry of calls) {
    const turn = TURNS.next();
    if (turn !== undefined) await turn;
    running.push(call(surface, entry));
  }
  return Promise.all(running);
}

function parse(text: string): { value: unknown } | undefined {
  try {
    return { value: JSON.parse(text) };
  } catch {
    // Also what nests deeper than the stack.
    return undefined;
  }
}

async function call(surface: ControlSurface, request: unknown): Promise<Response | undefined> {
  if (typeof request !== "object" || request === null || Array.isArray(request)) return invalidRequest("no object");
  const { jsonrpc, method, params, id } = request as Record<string, unknown>;
  if (!isId(id)) return invalidRequest("id is no string, number or null");
  if (jsonrpc !== "2.0") return invalidRequest('jsonrpc is not "2.0"', id);
  if (typeof method !== "string") return invalidRequest("method is no string", id);
  const response = await run(surface, method, params, id ?? null);
  return id === undefined ? undefined : response;
}

async function run(surface: ControlSurface, name: string, params: unknown, id: Id): Promise<Response> {
  try {
    const method = METHODS.get(name);
    if (method === undefined) throw methodNotFound();
    const result = await method.run(surface, params);
    return { jsonrpc: "2.0", result: result ?? null, id };
  } catch (error) {
    return failure(id, failureOf(error));
  }
}

function isId(id: unknown): id is Id | undefined {
  return id === undefined || id === null || typeof id === "string" || typeof id === "number";
}

function failure(id: Id, error: Failure): Response {
  return { jsonrpc: "2.0", error, id };
}

function invalidRequest(why: string, id: Id = null): Response {
  return failure(id, { code: -32600, message: `Invalid Request: ${why}` });
}

/**
 * What a caller is told about an error: a fault as it is, an error of ours with the exit code of its kind (design.md
 * section 5), anything else as a mistake of the daemon's.
 */
export function failureOf(error: unknown): Failure {
  if (error instanceof RpcFault) {
    return { code: error.code, message: error.message, ...(error.data !== undefined && { data: error.data }) };
  }
  if (error instanceof DmqError)
    return { code: faultCode(error.code), message: error.message, data: exitOf(error.code) };
  const why = error instanceof Error ? error.message : String(error);
  return { code: -32603, message: `Internal error: ${why}`, data: { exit: 1 } };
}

/** Code and exit code of our errors; what is not here is 500 and 1. */
const FAULTS: ReadonlyMap<ErrorCode, readonly [code: number, exit: number]> = new Map([
  ["usage", [-32602, 2]],
  ["no-such-node", [404, 3]],
  ["no-such-channel", [404, 3]],
  ["no-such-queue", [404, 3]],
  ["no-such-item", [404, 3]],
  ["queue-full", [503, 5]],
  ["queue-busy", [409, 5]],
  ["queue-timeout", [503, 6]],
  ["item-refused", [413, 5]],
  ["delivery", [500, 5]],
  ["storage", [500, 9]],
  ["amqp-unreachable", [503, 4]],
  ["amqp-login", [503, 4]],
  ["amqp-no-such", [404, 3]],
  ["amqp-refused", [409, 5]],
  ["amqp-timeout", [504, 6]],
  ["amqp-invalid", [-32602, 2]],
]);

function faultCode(code: ErrorCode): number {
  return FAULTS.get(code)?.[0] ?? 500;
}

function exitOf(code: ErrorCode): FaultData {
  if (code.startsWith("transport-")) return { exit: 4 };
  if (code.startsWith("config-")) return { exit: 9 };
  return { exit: FAULTS.get(code)?.[1] ?? 1 };
}
