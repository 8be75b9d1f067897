import type { NodeRow } from "../rpc/surface.ts";
import { type CommandSpec, FORM_OPTIONS } from "./command.ts";
import { VIA_OPTIONS, withCaller } from "./connect.ts";
import { EXIT } from "./exit.ts";
import { type Cell, formOf, writeResult } from "./output.ts";
import { ANSWER_MS_MAX } from "./socket.ts";

const HEADER = ["URI", "STATUS", "LOCAL", "IP", "RTT_MS", "FAILS", "LAST_SEEN", "SOURCE", "USER_AGENT"];

export const list: CommandSpec = {
  name: "list",
  summary: "the nodes of the bus, newest first, this one last",
  examples: [
    ["dmq list", "a table on a terminal, tab-separated lines in a pipe"],
    ["dmq list --json | jq -r '.[] | select(.status == \"active\") | .uri'", "every field of dmq.list_nodes and more"],
  ],
  positionals: [],
  options: [...VIA_OPTIONS, ...FORM_OPTIONS],
  notes: [`columns: ${HEADER.join(" ")}; - is nothing.`],
  async run(context, args) {
    const rows = await withCaller(context, args, (caller) =>
      caller.call<NodeRow[]>("dmq.list_nodes", undefined, { timeoutMs: ANSWER_MS_MAX }),
    );
    writeResult(context, formOf(context, args), rows, rows.map(cells), HEADER);
    return EXIT.ok;
  },
};

function cells(row: NodeRow): Cell[] {
  const rtt = row.rtt_ms === null ? null : Math.round(row.rtt_ms);
  const place: Cell[] = [row.uri, row.status, row.local, row.resolved_ip];
  return [...place, rtt, row.fail_count, row.last_seen, row.source, row.user_agent];
}
