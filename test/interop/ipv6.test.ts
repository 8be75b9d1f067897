import { describeBus } from "./bus.ts";

// One address for all, told apart by their ports: the loopback has no second one in IPv6, and Kamailio 5.6 accepts it.
describeBus({
  name: "ipv6",
  transport: "udp",
  lab: { port: 5270, ip: "[::1]" },
  uris: ["sip:[::1]:5260", "sip:[::1]:5262", "sip:[::1]:5264"],
  bodyBytesMax: 60_000,
  sendBytesMax: 60_000,
  sharesAddress: true,
});
