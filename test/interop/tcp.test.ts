import { describeBus } from "./bus.ts";

describeBus({
  name: "tcp",
  transport: "tcp",
  lab: { port: 5170, transport: "tcp" },
  uris: ["sip:127.0.0.21:5160;transport=tcp", "sip:127.0.0.22:5160;transport=tcp", "sip:127.0.0.23:5160;transport=tcp"],
  // The lab reads 300,000 octets with headers, but its script sends and stores no more than 100,000 (pv_buffer_size).
  bodyBytesMax: 99_000,
  sendBytesMax: 299_000,
  sharesAddress: false,
});
