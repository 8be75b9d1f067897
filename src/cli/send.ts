import type { DeliveryResult } from "../rpc/surface.ts";
import type { CommandSpec } from "./command.ts";
import { FORM_OPTIONS } from "./command.ts";
import { exitOfDelivery } from "./exit.ts";
import { BODY_NOTE, checkUri, deliver, MESSAGE_OPTIONS, readMessage, silent, writeDeliveries } from "./message.ts";
import { connectDaemon } from "./socket.ts";

export const send: CommandSpec = {
  name: "send",
  summary: "send a message to one node, and say how it answered",
  examples: [
    ["dmq send channel1 sip:192.0.2.2:5060 'hello'", "prints NODE CODE REASON MS, exits 0 if the node said 2xx"],
    ["date | dmq send channel1 sip:192.0.2.2:5060 -", "the body from standard input"],
    [
      "dmq send -T application/json -f state.json channel1 sip:192.0.2.2:5060",
      "the body from a file, with its media type",
    ],
  ],
  positionals: [
    { name: "CHANNEL", required: true, help: "name of the channel" },
    { name: "NODE", required: true, help: "SIP URI of the node, as `dmq list` shows it" },
    { name: "BODY", required: false, help: "text, or - for standard input" },
  ],
  options: [...MESSAGE_OPTIONS, ...FORM_OPTIONS],
  notes: [
    BODY_NOTE,
    "exit: 0 2xx, 3 unknown node or channel (404), 4 unreachable, 5 refused or overloaded, 6 timeout, 2 usage.",
  ],
  async run(context, args) {
    const [channel, node, body] = args.positionals as [string, string, string | undefined];
    const params = { ...(await readMessage(context, args, channel, body)), node: checkUri("NODE", node) };
    const result = await deliver<DeliveryResult>(connectDaemon(context, args), "dmq.send", params);
    if (result === undefined) return silent(context);
    writeDeliveries(context, args, [result], result);
    return exitOfDelivery(result);
  },
};
