import { expect, test } from "bun:test";
import { type CommandSpec, helpText } from "../../src/cli/command.ts";

const SPEC: CommandSpec = {
  name: "thing",
  summary: "do a thing",
  examples: [["dmq thing", "does it"]],
  positionals: [],
  options: [],
  exits: [
    [0, "done"],
    [75, "later"],
  ],
  seeAlso: ["dmq list", "dmq ping"],
  run: async () => 0,
};

test("help: ends with the exit codes in columns and with what to read next", () => {
  const text = helpText(SPEC);
  expect(text.slice(text.indexOf("exit codes:"))).toBe(
    "exit codes:\n  0   done\n  2   usage\n  75  later\n\nsee also: dmq list, dmq ping\n",
  );
});
