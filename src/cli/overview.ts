/** What `dmq` and `dmq --help` print. */
import { type CommandEntry, columns } from "./command.ts";

export const OVERVIEW_EXAMPLES: readonly (readonly [line: string, what: string])[] = [
  ["dmq serve --server-address sip:192.0.2.1:5060 --notification-address sip:192.0.2.2:5060", "be a node of that bus"],
  ["dmq list", "who is on it"],
  ["dmq bcast channel1 'hello'", "tell all of them"],
  ["dmq demo", "three nodes in one process, to look at"],
];

export const OVERVIEW_SUMMARY = "a full node of Kamailio's distributed message queue";

export const OVERVIEW_USAGE = "dmq [-s PATH] COMMAND [options] [arguments]";

export function overview(commands: ReadonlyMap<string, CommandEntry>): string {
  const lines = [`dmq: ${OVERVIEW_SUMMARY}`, "", "examples:"];
  for (const [line, what] of OVERVIEW_EXAMPLES) lines.push(`  ${line}`, `      ${what}`);
  lines.push("", `usage: ${OVERVIEW_USAGE}`, "", "commands:");
  lines.push(...columns([...commands].map(([name, entry]) => [name, entry.summary])));
  lines.push("", "dmq COMMAND --help says more about each.");
  return `${lines.join("\n")}\n`;
}
