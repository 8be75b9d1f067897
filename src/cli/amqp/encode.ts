/** `dmq amqp encode`: kazoo_encode for shells. */
import { encodeKey, KEY_BYTES_MAX } from "../../amqp/encode.ts";
import { encodeUtf8 } from "../../core/bytes.ts";
import { UsageError } from "../../core/errors.ts";
import type { CommandSpec } from "../command.ts";
import { EXIT } from "../exit.ts";

export const encode: CommandSpec = {
  name: "amqp encode",
  summary: "make any text one word of a routing key, as Kamailio's kazoo_encode",
  examples: [
    ["dmq amqp encode sip.example.com", "sip%2Eexample%2Ecom"],
    ['KEY=call.$(dmq amqp encode "$CALL_ID")', "a Call-ID may hold dots, a word of a routing key may not"],
    ["printf %s 'a b' | dmq amqp encode", "a+b: standard input, every octet of it, a line end too"],
  ],
  positionals: [{ name: "TEXT", required: false, help: "text; without it, or -, all of standard input" }],
  options: [],
  notes: [
    "Letters, digits, - ~ and _ stay; a space becomes +; a text that is # or * alone stays; every other octet becomes %XX.",
    "Kazoo gets octets above 127 wrong; here each is two digits.",
  ],
  exits: [[EXIT.ok, "printed"]],
  seeAlso: ["dmq amqp", "dmq json"],
  async run(context, { positionals: [text] }) {
    // Bun puts U+FFFD where an argument is no UTF-8.
    if (text?.includes("\ufffd")) throw new UsageError("TEXT has octets that are no UTF-8: give it by standard input");
    const octets = text === undefined || text === "-" ? await context.stdin() : encodeUtf8(text);
    const word = encodeKey(octets);
    if (word.length > KEY_BYTES_MAX)
      throw new UsageError(`it makes a word of ${word.length} octets, a routing key has at most ${KEY_BYTES_MAX}`);
    context.stdout(`${word}\n`);
    return EXIT.ok;
  },
};
