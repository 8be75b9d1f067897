/** `dmq queue`: its commands, none of which is loaded before it is asked for. */
import type { CommandEntry, CommandSpec } from "./command.ts";
import { EXIT } from "./exit.ts";

const COMMANDS: ReadonlyMap<string, CommandEntry> = new Map<string, CommandEntry>([
  ["add", { summary: "add an item", load: async () => (await import("./queue/add.ts")).add }],
  [
    "fetch",
    {
      summary: "take items, or have a command handle them",
      load: async () => (await import("./queue/fetch.ts")).fetchItems,
    },
  ],
  ["peek", { summary: "show items without taking them", load: async () => (await import("./queue/peek.ts")).peek }],
  ["ack", { summary: "settle leased items: they are done", load: async () => (await import("./queue/settle.ts")).ack }],
  ["nack", { summary: "give leased items back, or up", load: async () => (await import("./queue/settle.ts")).nack }],
  ["extend", { summary: "renew the lease of an item", load: async () => (await import("./queue/settle.ts")).extend }],
  ["size", { summary: "how many items a queue has", load: async () => (await import("./queue/look.ts")).size }],
  ["list", { summary: "all queues", load: async () => (await import("./queue/look.ts")).list }],
  [
    "stats",
    { summary: "sizes, counters and definition of a queue", load: async () => (await import("./queue/look.ts")).stats },
  ],
  ["move", { summary: "move items to another queue", load: async () => (await import("./queue/move.ts")).move }],
  ["clear", { summary: "drop all items of a queue", load: async () => (await import("./queue/move.ts")).clear }],
  ["define", { summary: "make a queue, or change one", load: async () => (await import("./queue/define.ts")).define }],
  ["drop", { summary: "forget a queue", load: async () => (await import("./queue/define.ts")).drop }],
  ["dead", { summary: "what could not be handled", load: async () => (await import("./queue/dead.ts")).dead }],
  [
    "import",
    {
      summary: "take in a table of Kamailio's mqueue",
      load: async () => (await import("./queue/table.ts")).importTable,
    },
  ],
  [
    "export",
    {
      summary: "write a table for Kamailio's mqueue",
      load: async () => (await import("./queue/table.ts")).exportTable,
    },
  ],
  [
    "pull",
    { summary: "drain a queue of a running Kamailio", load: async () => (await import("./queue/pull.ts")).pull },
  ],
  [
    "check",
    { summary: "look through the store for damage", load: async () => (await import("./queue/check.ts")).check },
  ],
]);

export const queue: CommandSpec = {
  name: "queue",
  summary: "queues that lose nothing: Kamailio's mqueue for shells and nodes",
  examples: [
    ["dmq queue define alert --size 100 --addmode newest", "once, or `queue = [...]` in the configuration"],
    ['dmq queue add alert "$SRC:$PORT" "pike flood detected"', "a key and a value; exit 0 says that it is stored"],
    ["dmq queue fetch alert", "KEY<TAB>VALUE of the oldest item, which is taken off"],
    [`dmq queue fetch alert --follow --exec 'logger "src [$DMQ_KEY] - $(cat)"'`, "each item, as it comes"],
  ],
  positionals: [],
  options: [],
  subcommands: COMMANDS,
  notes: [
    "The daemon is asked; where none runs, the same is done on the file of its store (docs/QUEUES.md).",
    "NAME is a letter or digit, then at most 63 letters, digits and . _ -",
  ],
  exits: [
    [EXIT.ok, "done; added items are stored as the queue's definition promises"],
    [EXIT.no, "the plain no: the queue is empty"],
    [EXIT.notFound, "no such queue, or item"],
    [EXIT.unreachable, "no permission for the daemon's socket, or it is gone"],
    [EXIT.refused, "the queue is full, the value too large, the queue to drop not empty"],
    [EXIT.timeout, "no room in time; or a daemon that was gone before it answered: it may or may not have happened"],
    [EXIT.command, "the command of --exec failed"],
    [EXIT.state, "the store is damaged, full or read-only; the configuration is invalid"],
  ],
  seeAlso: ["dmq queue add --help", "dmq queue fetch --help", "dmq serve"],
  run: async () => EXIT.usage,
};
