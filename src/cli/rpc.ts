import { RpcError, UsageError } from "../core/errors.ts";
import { nearest } from "../core/nearest.ts";
import type { RpcClient } from "../rpc/client.ts";
import { type CommandSpec, quoted } from "./command.ts";
import { EXIT, METHOD_NOT_FOUND } from "./exit.ts";
import { connectDaemon } from "./socket.ts";

export const rpc: CommandSpec = {
  name: "rpc",
  summary: "call a method of the daemon and print its result as JSON",
  examples: [
    ["dmq rpc dmq.list_nodes", "as with Kamailio's RPC"],
    [`dmq rpc dmq.add '["sip:192.0.2.2:5060"]'`, "parameters by position"],
    [`dmq rpc dmq.remove '{"uri": "sip:192.0.2.2:5060", "strict": true}'`, "parameters by name"],
    ["dmq rpc system.listMethods", "what there is"],
  ],
  positionals: [
    { name: "METHOD", required: true, help: "name of the method" },
    { name: "JSON", required: false, help: "its parameters: an array, an object, or - for standard input" },
  ],
  options: [],
  exits: [
    [0, "it has a result"],
    [1, "a fault that says no more"],
    [2, "usage; wrong parameters, or no such method"],
    [3, "no such node, channel or thing"],
    [4, "no daemon"],
  ],
  seeAlso: ["dmq rpc system.listMethods", "dmq rpc system.methodHelp METHOD"],
  async run(context, args) {
    const [method, text] = args.positionals as [string, string | undefined];
    const json = text === "-" ? new TextDecoder().decode(await context.stdin()) : text;
    const params = json === undefined ? undefined : parseParams(json);
    const client = connectDaemon(context, args);
    const result = await client.call<unknown>(method, params).catch((error) => explained(error, method, client));
    context.stdout(`${JSON.stringify(result, undefined, context.isTty.stdout ? 2 : 0)}\n`);
    return EXIT.ok;
  },
};

/** @throws in any case: the error itself, or where there is no such method, one that names those that there are */
async function explained(error: unknown, method: string, client: RpcClient): Promise<never> {
  if (!(error instanceof RpcError) || error.fault !== METHOD_NOT_FOUND) throw error;
  const methods = await client.call<unknown>("system.listMethods").catch(() => undefined);
  if (!Array.isArray(methods) || methods.includes(method)) throw error;
  const near = nearest(method, methods.map(String));
  const hint = near === undefined ? `there are ${methods.join(", ")}` : `did you mean ${near}?`;
  throw new UsageError(`${error.message}: ${quoted(method)}; ${hint}`);
}

function parseParams(text: string): unknown {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new UsageError(`the parameters are not JSON (${cause instanceof Error ? cause.message : String(cause)})`);
  }
  if (typeof value === "object" && value !== null) return value;
  throw new UsageError(`the parameters are ${JSON.stringify(value)}, expected a JSON array or object`);
}
