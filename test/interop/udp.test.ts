import { describeBus } from "./bus.ts";

describeBus({
  name: "udp",
  transport: "udp",
  lab: { port: 5070 },
  uris: ["sip:127.0.0.21:5060", "sip:127.0.0.22:5060", "sip:127.0.0.23:5060"],
  bodyBytesMax: 60_000,
  sendBytesMax: 60_000,
  sharesAddress: false,
});
