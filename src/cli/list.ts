import { UsageError } from "../core/errors.ts";
import type { NodeRow } from "../rpc/surface.ts";
import { type Arguments, type CommandSpec, FORM_OPTIONS } from "./command.ts";
import { VIA_OPTIONS, withCaller } from "./connect.ts";
import type { CliContext } from "./context.ts";
import { EXIT } from "./exit.ts";
import { type Cell, formOf, writeResult } from "./output.ts";
import { ANSWER_MS_MAX, connectDaemon } from "./socket.ts";

const HEADER = ["URI", "STATUS", "LOCAL", "IP", "RTT_MS", "FAILS", "LAST_SEEN", "SOURCE", "USER_AGENT"];

export const list: CommandSpec = {
  name: "list",
  summary: "the nodes of the bus, newest first, this one last",
  examples: [
    ["dmq list", "a table on a terminal, tab-separated lines in a pipe"],
    ["dmq list --json | jq -r '.[] | select(.status == \"active\") | .uri'", "every field of dmq.list_nodes and more"],
    ["dmq list --via sip:192.0.2.1:5060", "without a daemon: as that node lists them"],
  ],
  positionals: [],
  options: [{ flag: "watch", help: "again whenever it changes, until interrupted" }, ...VIA_OPTIONS, ...FORM_OPTIONS],
  notes: [`columns: ${HEADER.join(" ")}; - is nothing.`],
  exits: [
    [0, "listed"],
    [2, "usage"],
    [4, "no daemon; no node of --via gave its list"],
    [5, "all nodes of --via said no"],
    [130, "interrupted, with --watch"],
  ],
  seeAlso: ["dmq ping", "dmq wait", "dmq events", "dmq add"],
  async run(context, args) {
    if (args.has("watch")) return watchList(context, args);
    const rows = await withCaller(context, args, (caller) =>
      caller.call<NodeRow[]>("dmq.list_nodes", undefined, { timeoutMs: ANSWER_MS_MAX }),
    );
    writeResult(context, formOf(context, args), rows, rows.map(cells), HEADER);
    return EXIT.ok;
  },
};

async function watchList(context: CliContext, args: Arguments): Promise<number> {
  if (args.has("via")) throw new UsageError("--watch and --via exclude each other: a visitor is told of nothing");
  const { watch } = await import("./watch.ts");
  const form = formOf(context, args);
  const write = (rows: NodeRow[]): void => writeResult(context, form, rows, rows.map(cells), HEADER);
  return watch(context, connectDaemon(context, args), form, write);
}

function cells(row: NodeRow): Cell[] {
  const rtt = row.rtt_ms === null ? null : Math.round(row.rtt_ms);
  const place: Cell[] = [row.uri, row.status, row.local, row.resolved_ip];
  return [...place, rtt, row.fail_count, row.last_seen, row.source, row.user_agent];
}
