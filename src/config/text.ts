/** Options as an operator reads them: their values in the file's units, and a file with all of them to begin with. */
import { withoutPassword } from "../core/secret.ts";
import { CONFIG_OPTIONS, type ConfigOption, type DmqConfig } from "./schema.ts";

/** What `dmq config show` prints of a value: numbers in the unit of the file, lists as they are, `null` for nothing. */
export type ShownValue = string | number | boolean | readonly string[] | null;

export function shownValue(option: ConfigOption, config: DmqConfig): ShownValue {
  const value = config[option.property];
  if (value === undefined) return null;
  if (option.secret === true && Array.isArray(value)) return value.map(withoutPassword);
  if (typeof value !== "number") return value;
  if (option.name === "worker_usleep") return value * 1_000;
  return option.type === "duration" ? value / 1_000 : value;
}

const LINE_WIDTH_MAX = 100;

const HEAD = `# Configuration of dmq, a node of Kamailio's DMQ bus: every option, switched off, with its default or an example.
# Take the "#" away in front of a key to set it. Flags of "dmq serve" and DMQ_… variables win over this file.
# "dmq config check" reads it as a start would, "dmq config show" says which value is from where.
`;

/** A TOML file in which each option stands as a comment; nothing in it changes a default. */
export function configTemplate(): string {
  return [HEAD, ...CONFIG_OPTIONS.map(optionText)].join("\n");
}

function optionText(option: ConfigOption): string {
  const standard = option.default === undefined ? "no default" : `default: ${option.default}`;
  const comment = [
    ...wrapped(option.help),
    ...wrapped(`allowed: ${option.expected}`),
    ...wrapped(`${standard}; ${changesWith(option)}`),
  ];
  return `${comment.map((line) => `# ${line}\n`).join("")}#${option.name} = ${tomlValue(option)}\n`;
}

function changesWith({ reload }: ConfigOption): string {
  if (reload === undefined) return "needs a restart";
  return reload === "value" ? "changes with a reload" : "a reload adds what is new";
}

function tomlValue(option: ConfigOption): string {
  const text = option.default ?? option.example ?? "";
  const value = /^\d+(\.\d+)?$/.test(text) ? text : JSON.stringify(text);
  return option.repeatable ? `[${value}]` : value;
}

function wrapped(text: string): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && line.length + 1 + word.length > LINE_WIDTH_MAX) {
      lines.push(line);
      line = word;
    } else line = line === "" ? word : `${line} ${word}`;
  }
  return [...lines, line];
}
