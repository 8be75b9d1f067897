/**
 * The RPC methods, all in one table: parameters, one line of help, what they do. Kamailio's four have its names, texts and
 * fault codes (dmq.md section 14), so that a script written for a Kamailio cannot tell the difference; ours stand beside
 * them. docs/RPC.md is the same table for readers.
 */
import { AMQP_METHODS } from "./amqp-methods.ts";
import { define, type Method } from "./method.ts";
import { bodyBytes, invalidParams, type Params } from "./params.ts";
import { QUEUE_METHODS } from "./queue-methods.ts";
import {
  type ControlSurface,
  type DeliveryResult,
  invalidStatus,
  NODE_FIELDS,
  type NodeRow,
  type PingResult,
  RpcFault,
  type SendRequest,
  STATUSES,
  type Status,
  type StatusAnswer,
} from "./surface.ts";

const MESSAGE_OPTIONS = ["content_type", "max_forwards", "timeout_ms", "force"] as const;
/** They came later, and what has a position keeps it. */
const LATER_OPTIONS = ["accept", "message_id", "retry"] as const;
const SPOOL_OPTIONS = ["spool", "spool_ttl_ms"] as const;
const DEFAULT_CONTENT_TYPE = "text/plain";

export const METHODS: ReadonlyMap<string, Method> = new Map<string, Method>([
  [
    "dmq.list_nodes",
    define({ kamailio: true, help: "The nodes of the bus, newest first, this one last.", run: listNodes }),
  ],
  [
    "dmq.add",
    define({
      required: ["uri"],
      optional: ["status"],
      kamailio: true,
      help: "Adds a peer, active unless a status is given.",
      run: (surface, { uri, status }) => {
        surface.add(uri, status === undefined ? undefined : checkStatus(status));
        return "Ok. DMQ node added.";
      },
    }),
  ],
  [
    "dmq.remove",
    define({
      required: ["uri"],
      optional: ["strict"],
      kamailio: true,
      help: "Forgets a peer; with strict, an unknown one is a fault.",
      run: remove,
    }),
  ],
  [
    "dmq.change_status",
    define({
      required: ["uri", "status"],
      kamailio: true,
      help: "Sets the status of a peer: active, not_active or disabled.",
      run: (surface, { uri, status }) => {
        const change = surface.changeStatus(uri, checkStatus(status));
        return change === "changed" ? "Ok. DMQ node status changed." : `Ok. DMQ node status is already ${status}.`;
      },
    }),
  ],
  [
    "dmq.send",
    define({
      required: ["channel", "node"],
      optional: ["body", ...MESSAGE_OPTIONS, "body_base64", ...LATER_OPTIONS, ...SPOOL_OPTIONS],
      help: "Sends a message to one node and waits for how it ended.",
      run: (surface, params): Promise<DeliveryResult> => surface.send({ ...messageOf(params), node: params.node }),
    }),
  ],
  [
    "dmq.bcast",
    define({
      required: ["channel"],
      optional: ["body", ...MESSAGE_OPTIONS, "except", "body_base64", ...LATER_OPTIONS, "replies", ...SPOOL_OPTIONS],
      help: "Sends a message to every active node and waits for how each one ended.",
      run: (surface, params): Promise<DeliveryResult[]> =>
        surface.broadcast({
          ...messageOf(params),
          except: params.except ?? [],
          ...(params.replies !== undefined && { replies: params.replies }),
        }),
    }),
  ],
  [
    "dmq.ping",
    define({
      optional: ["nodes", "timeout_ms"],
      help: "Pings nodes, all of them unless some are named; it changes no status.",
      run: (surface, { nodes, timeout_ms }): Promise<PingResult[]> =>
        surface.ping({
          ...(nodes !== undefined && { nodes }),
          ...(timeout_ms !== undefined && { timeoutMs: timeout_ms }),
        }),
    }),
  ],
  [
    "dmq.answer",
    define({
      required: ["reply_id"],
      optional: ["code", "reason", "content_type", "body", "body_base64"],
      help: "Answers a message that an answering listener was given.",
      run: (surface, params) => {
        const { reply_id: replyId, code = 200, reason, content_type: contentType = DEFAULT_CONTENT_TYPE } = params;
        surface.answer({
          replyId,
          code,
          contentType,
          body: bodyBytes(params),
          ...(reason !== undefined && { reason }),
        });
        return "Ok. DMQ message answered.";
      },
    }),
  ],
  [
    "dmq.join",
    define({
      required: ["uris"],
      help: "Asks these nodes for the bus, in addition to the configured ones.",
      run: (surface, { uris }) => {
        surface.join(uris);
        return "Ok. DMQ node is joining.";
      },
    }),
  ],
  [
    "dmq.leave",
    define({
      help: "Leaves the bus with an announcement and ends the daemon.",
      run: async (surface) => {
        await surface.leave();
        return "Ok. DMQ node left.";
      },
    }),
  ],
  [
    "dmq.stop",
    define({
      help: "Ends the daemon without an announcement, as before a restart.",
      run: async (surface) => {
        await surface.stop();
        return "Ok. DMQ node stopped.";
      },
    }),
  ],
  [
    "dmq.reload",
    define({
      help: "Reads the configuration again; says what has changed, and what needs a restart.",
      run: (surface) => surface.reload(),
    }),
  ],
  [
    "dmq.replicate",
    define({
      optional: ["request", "timeout_ms", "request_base64"],
      help: "Passes a SIP request on to every active node and waits for how each one ended.",
      run: (surface, params): Promise<DeliveryResult[]> =>
        surface.replicate({
          octets: bodyBytes({
            ...(params.request !== undefined && { body: params.request }),
            ...(params.request_base64 !== undefined && { body_base64: params.request_base64 }),
          }),
          ...(params.timeout_ms !== undefined && { timeoutMs: params.timeout_ms }),
        }),
    }),
  ],
  ...QUEUE_METHODS,
  ...AMQP_METHODS,
  ["dmq.status", define({ help: "What the daemon is and counts.", run: statusOf })],
  ["core.version", define({ help: "The daemon's name and version.", run: (surface) => surface.version() })],
  ["core.uptime", define({ help: "Since when the daemon runs.", run: uptime })],
  ["system.listMethods", define({ help: "The names of all methods.", run: () => [...METHODS.keys()].sort() })],
  [
    "system.methodHelp",
    define({
      required: ["method"],
      help: "One line about a method.",
      run: (_surface, { method }) => {
        const found = METHODS.get(method);
        if (found === undefined) throw methodNotFound();
        return found.help;
      },
    }),
  ],
]);

/** JSON-RPC 2.0 section 5.1; Kamailio answers 500 with the same text. */
export function methodNotFound(): RpcFault {
  return new RpcFault(-32601, "Method Not Found", { exit: 2 });
}

async function statusOf(surface: ControlSurface): Promise<StatusAnswer> {
  const queues = (await surface.queues?.sizes()) ?? [];
  return { ...surface.status(), queues, amqp: (await surface.amqp?.status()) ?? null };
}

async function listNodes(surface: ControlSurface): Promise<Record<string, unknown>[]> {
  const rows = await surface.listNodes();
  // kamcmd and its readers go by the order of the fields, so it is not left to whoever built the row.
  return rows.map((row: NodeRow) => Object.fromEntries(NODE_FIELDS.map((field) => [field, row[field]])));
}

function remove(surface: ControlSurface, { uri, strict }: { uri: string; strict?: boolean }): string {
  try {
    surface.remove(uri);
  } catch (error) {
    const missing = error instanceof RpcFault && (error.code === 404 || error.code === 409);
    // Kamailio says so of unknown nodes and of itself, too (dmq.md section 14).
    if (!missing || strict === true) throw error;
  }
  return "Ok. DMQ node removed.";
}

function checkStatus(status: string): Status {
  const known = STATUSES.find((name) => name === status);
  if (known === undefined) throw invalidStatus();
  return known;
}

function messageOf(params: Pick<Params, "channel"> & Partial<Params>): Omit<SendRequest, "node"> {
  return {
    channel: params.channel,
    body: bodyBytes(params),
    contentType: params.content_type ?? DEFAULT_CONTENT_TYPE,
    ...(params.max_forwards !== undefined && { maxForwards: params.max_forwards }),
    ...(params.timeout_ms !== undefined && { timeoutMs: params.timeout_ms }),
    ...(params.force !== undefined && { force: params.force }),
    ...(params.accept !== undefined && { accept: params.accept }),
    ...(params.message_id !== undefined && { messageId: params.message_id }),
    ...(params.retry !== undefined && { retry: params.retry }),
    ...spoolOf(params),
  };
}

/** Its time to live alone asks for it, too. */
function spoolOf({ spool, spool_ttl_ms: ttlMs, retry, accept }: Partial<Params>): Pick<SendRequest, "spool"> {
  if (spool === false || (spool === undefined && ttlMs === undefined)) return {};
  if (retry !== undefined)
    throw invalidParams("spool and retry exclude each other: what is stored is sent until it is through");
  if (accept !== undefined)
    throw invalidParams("spool and accept exclude each other: nobody may be there for the answer");
  return { spool: ttlMs === undefined ? {} : { ttlMs } };
}

/** Kamailio's three fields, with times as ISO 8601 where it prints what `ctime` does. */
function uptime(surface: ControlSurface): { now: string; up_since: string; uptime: number } {
  const seconds = surface.status().uptime_s;
  const now = Date.now();
  return {
    now: new Date(now).toISOString(),
    up_since: new Date(now - seconds * 1000).toISOString(),
    uptime: Math.floor(seconds),
  };
}
