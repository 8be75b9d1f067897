import { UsageError } from "../core/errors.ts";
import type { DeliveryResult } from "../rpc/surface.ts";
import { type CommandSpec, FORM_OPTIONS } from "./command.ts";
import type { CliContext } from "./context.ts";
import { exitOfBroadcast } from "./exit.ts";
import { deliver, readFile, readRequirement, readTimeout, sayNobody, silent, writeDeliveries } from "./message.ts";
import { connectDaemon } from "./socket.ts";

export const replicate: CommandSpec = {
  name: "replicate",
  summary: "pass a SIP request on to every active node, and say how each answered",
  examples: [
    ["dmq replicate register.sip", "the request in a file, as Kamailio's dmq_t_replicate() sends it"],
    ["dmq replicate - < register.sip", "the same from standard input"],
  ],
  positionals: [{ name: "FILE", required: false, help: "file with one SIP request, or - for standard input (-)" }],
  options: [
    { flag: "require", value: "all|any|N|N%", help: "how many must say 2xx (all)" },
    { flag: "timeout", value: "DURATION", help: "give up after that long: 500ms, 2s, 1m; a number is seconds" },
    ...FORM_OPTIONS,
  ],
  notes: [
    "Nothing is changed but that a Via of this node is put on top. Lines of the headers may end with LF alone; Via and",
    "Content-Length may be missing. INVITE, ACK, CANCEL and KDMQ cannot be replicated.",
  ],
  exits: [
    [0, "enough nodes said 2xx"],
    [1, "none did, for different reasons"],
    [2, "usage; no SIP request"],
    [3, "no active node to address"],
    [4, "no daemon; no node could be reached"],
    [5, "all refused"],
    [6, "none answered in time: it may or may not have happened"],
    [7, "some did, not enough for --require"],
  ],
  seeAlso: ["dmq serve --replicate METHODS", "dmq list"],
  async run(context, args) {
    const requirement = readRequirement(args.value("require") ?? "all");
    const timeout = readTimeout(args.value("timeout"));
    const octets = withCrlf(await readRequest(context, args.positionals[0] ?? "-"));
    const params = {
      request_base64: Buffer.from(octets).toString("base64"),
      ...(timeout !== undefined && { timeout_ms: timeout }),
    };
    const results = await deliver<DeliveryResult[]>(connectDaemon(context, args), "dmq.replicate", params);
    if (results === undefined) return silent(context);
    const exit = exitOfBroadcast(results, requirement);
    writeDeliveries(context, args, results, results, exit);
    if (results.length === 0) sayNobody(context, 0);
    return exit;
  },
};

async function readRequest(context: CliContext, file: string): Promise<Uint8Array> {
  const octets = file === "-" ? await context.stdin() : await readFile(context, file);
  if (octets.length === 0) throw new UsageError("no SIP request: nothing came from standard input or the file");
  return octets;
}

/**
 * What an editor saved has LF where SIP has CRLF (RFC 3261 §7). Only the header block is mended, up to the first empty line,
 * and only if it has no CRLF at all: a body is never touched.
 */
function withCrlf(octets: Uint8Array): Uint8Array {
  const text = Buffer.from(octets.buffer, octets.byteOffset, octets.length);
  const firstLine = text.indexOf("\n");
  if (firstLine === -1 || text[firstLine - 1] === 0x0d) return octets;
  const blank = text.indexOf("\n\n");
  const head = (blank === -1 ? text : text.subarray(0, blank)).toString("latin1").trimEnd();
  const body = blank === -1 ? Buffer.alloc(0) : text.subarray(blank + 2);
  return Buffer.concat([Buffer.from(`${head.replaceAll("\n", "\r\n")}\r\n\r\n`, "latin1"), body]);
}
