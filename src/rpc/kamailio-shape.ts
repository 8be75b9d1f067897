/**
 * Calls as Kamailio's tools make them and answers as they print them, the same for both carriers (binary RPC and the
 * JSON-RPC FIFO; dmq.md section 14). The methods are those of methods.ts. What differs is here: a list of nodes without
 * our own fields, times as `ctime` writes them, surplus parameters that Kamailio ignores, and its codes and texts for faults.
 */
import { failureOf } from "./jsonrpc.ts";
import { METHODS } from "./methods.ts";
import type { ParamName, Signature } from "./params.ts";
import { type ControlSurface, KAMAILIO_FIELDS, type NodeRow, RpcFault } from "./surface.ts";

export interface KamailioFault {
  /** In Kamailio's range, which is that of SIP and HTTP. */
  code: number;
  text: string;
  /** There is no such method: each carrier has words of its own for it. */
  isUnknownMethod: boolean;
}

export type KamailioAnswer = { result: unknown } | { fault: KamailioFault };

/** Answers a call; never rejects. Parameters that are an object go by name for our methods, by order for Kamailio's. */
export type KamailioCall = (method: string, params: unknown) => Promise<KamailioAnswer>;

/** What Kamailio reads of the parameters of its own methods; the rest it ignores. */
const PARAMS_READ: ReadonlyMap<string, number> = new Map([
  ["dmq.list_nodes", 0],
  ["dmq.add", 1],
  ["dmq.remove", 1],
  ["dmq.change_status", 2],
  ["mqueue.get_size", 1],
  ["mqueue.get_sizes", 0],
  ["mqueue.fetch", 1],
  ["core.version", 0],
  ["core.uptime", 0],
  ["system.listMethods", 0],
  ["system.methodHelp", 1],
]);

const FLAGS: ReadonlySet<ParamName> = new Set(["strict", "force", "order_by_key", "counts"]);
const NUMBERS: ReadonlySet<ParamName> = new Set([
  ...(["max_forwards", "timeout_ms", "retry", "replies", "code", "exit_code", "count", "after", "seq"] as const),
  ...(["dedupe_ms", "delay_ms", "ttl_ms", "lease_ms", "wait_ms"] as const),
]);
/** Here an empty text is a value. */
const BODIES: ReadonlySet<ParamName> = new Set(["body", "request", "key", "value", "stderr"]);

const INVALID_PARAMS = -32602;

const UNKNOWN_METHOD: KamailioAnswer = { fault: { code: 500, text: "Method Not Found", isUnknownMethod: true } };

/**
 * @param surface  what is called; it counts as up since now
 * @param now      wall-clock time in milliseconds
 */
export function kamailioCalls(surface: ControlSurface, now: () => number = Date.now): KamailioCall {
  const upSince = Math.floor(now() / 1_000 - surface.status().uptime_s);
  const special = new Map<string, (params: unknown[]) => unknown>([
    ["dmq.list_nodes", async () => (await surface.listNodes()).map(listed)],
    ["core.uptime", () => uptime(upSince, Math.floor(now() / 1_000))],
    ["system.methodHelp", methodHelp],
  ]);
  return async (method, params) => {
    const read = PARAMS_READ.get(method);
    const given = read === undefined ? undefined : inOrder(params).slice(0, read).map(present);
    const own = special.get(method);
    try {
      if (own !== undefined) return { result: await own(given ?? []) };
      const found = METHODS.get(method);
      if (found === undefined) return UNKNOWN_METHOD;
      return { result: await found.run(surface, given ?? spelled(found, params)) };
    } catch (error) {
      return { fault: faultOf(error) };
    }
  };
}

/** `Sat Nov 21 16:06:19 2026`: local time as `ctime` writes it (C11 7.27.3.1), without the line end. */
export function ctime(seconds: number): string {
  const time = new Date(seconds * 1_000);
  const [weekday, month] = [WEEKDAYS[time.getDay()], MONTHS[time.getMonth()]];
  const clock = [time.getHours(), time.getMinutes(), time.getSeconds()].map((part) => String(part).padStart(2, "0"));
  return `${weekday} ${month} ${String(time.getDate()).padStart(2)} ${clock.join(":")} ${time.getFullYear()}`;
}

const WEEKDAYS = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

function listed(row: NodeRow): Record<string, unknown> {
  return Object.fromEntries(KAMAILIO_FIELDS.map((field) => [field, row[field]]));
}

function uptime(upSince: number, now: number): { now: string; up_since: string; uptime: number } {
  return { now: ctime(now), up_since: ctime(upSince), uptime: now - upSince };
}

/** The two faults are Kamailio's; ours have other codes. */
function methodHelp([name]: unknown[]): string {
  if (typeof name !== "string" && typeof name !== "number") throw new RpcFault(400, "Method Name Expected");
  const method = METHODS.get(String(name));
  if (method === undefined) throw new RpcFault(400, "command not found");
  return method.help;
}

function inOrder(params: unknown): unknown[] {
  if (Array.isArray(params)) return params;
  return typeof params === "object" && params !== null ? Object.values(params) : [];
}

/** An empty text is a parameter: a URI that is none, and not one that is missing. */
function present(value: unknown): unknown {
  return value === "" ? " " : value;
}

/** The tools know numbers and text only, and take for a number what looks like one: our types are put back. */
function spelled(signature: Signature, params: unknown): unknown {
  const names = [...signature.required, ...signature.optional];
  if (Array.isArray(params)) return params.map((value, index) => spelledOne(names[index] ?? names.at(-1), value));
  if (typeof params !== "object" || params === null) return params;
  return Object.fromEntries(
    Object.entries(params).map(([name, value]) => [name, spelledOne(name as ParamName, value)]),
  );
}

function spelledOne(name: ParamName | undefined, value: unknown): unknown {
  if (name === undefined) return value;
  if (FLAGS.has(name)) return flagOf(value);
  // kamcmd has no other way to leave out a parameter that others follow.
  if (value === "" && !BODIES.has(name)) return undefined;
  if (NUMBERS.has(name)) return typeof value === "string" && /^\d{1,9}$/.test(value) ? Number(value) : value;
  return typeof value === "number" ? String(value) : value;
}

function flagOf(value: unknown): unknown {
  if (value === 1 || value === "1" || value === "true") return true;
  return value === 0 || value === "0" || value === "false" ? false : value;
}

function faultOf(error: unknown): KamailioFault {
  const { code, message } = failureOf(error);
  return { code: codeOf(code), text: message, isUnknownMethod: false };
}

/** The negative codes of JSON-RPC mean nothing to the tools, and a status above 699 is none. */
function codeOf(code: number): number {
  if (code === INVALID_PARAMS) return 400;
  return code >= 100 && code <= 699 ? code : 500;
}
