/**
 * The npm package `sip` as its users have it: `sip.start` with its transactions, a 200 for each request.
 *
 *   npm-sip IP PORT [udp|tcp]
 */
import { sipPackage as sip } from "../lib/sip-package.ts";

const [ip = "127.0.0.1", port = "0", transport = "udp"] = process.argv.slice(2);

const options = { address: ip, port: Number(port), udp: transport === "udp", tcp: transport === "tcp" };

sip.start(options, (request) => sip.send(sip.makeResponse(request, 200, "OK")));
console.log("ready");
