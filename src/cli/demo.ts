import type { CommandSpec } from "./command.ts";
import { EXIT } from "./exit.ts";

export const demo: CommandSpec = {
  name: "demo",
  summary: "three nodes on loopback in one process: they find each other, talk, and lose one",
  examples: [["dmq demo", "takes a few seconds, needs no daemon, touches nothing"]],
  positionals: [],
  options: [],
  run: () => Promise.resolve(EXIT.ok),
};
