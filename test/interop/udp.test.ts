import { describeBus } from "./bus.ts";

// Not the ports of the lab's examples: somebody may be trying those out by hand while the tests run.
describeBus({
  name: "udp",
  transport: "udp",
  lab: { port: 5470 },
  uris: ["sip:127.0.0.21:5460", "sip:127.0.0.22:5460", "sip:127.0.0.23:5460"],
  bodyBytesMax: 60_000,
  sendBytesMax: 60_000,
  sharesAddress: false,
});
