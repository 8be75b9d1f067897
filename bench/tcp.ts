/** KDMQ requests over TCP: one connection and eight, with many requests under way on each. */
import { parseOptions } from "./lib/options.ts";
import { runBench } from "./lib/report.ts";
import { measureStreams } from "./lib/streams.ts";

const options = parseOptions(process.argv.slice(2));

await runBench("tcp", options, (report) =>
  measureStreams(report, ["dmq", "kamailio tlsf", "kamailio qm", "npm sip", "c echo"], { transport: "tcp" }, 1.5),
);
