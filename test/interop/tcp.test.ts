import { describeBus } from "./bus.ts";

describeBus({
  name: "tcp",
  transport: "tcp",
  lab: { port: 5170, transport: "tcp" },
  uris: ["sip:127.0.0.21:5160;transport=tcp", "sip:127.0.0.22:5160;transport=tcp", "sip:127.0.0.23:5160;transport=tcp"],
  // The lab's Kamailio reads 300,000 octets, but its script sends and stores no more than 100,000 (pv_buffer_size).
  bodyBytesMax: 99_000,
  sharesAddress: false,
});
