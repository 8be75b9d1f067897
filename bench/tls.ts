/** KDMQ requests over TLS 1.3 (AES-128-GCM for everybody): one connection and eight, with many requests under way on each. */
import { parseOptions } from "./lib/options.ts";
import { runBench } from "./lib/report.ts";
import { measureStreams } from "./lib/streams.ts";
import { makeCertificate, tlsProblem } from "./lib/tls.ts";

const options = parseOptions(process.argv.slice(2));

await runBench("tls", options, async (report) => {
  const problem = tlsProblem();
  if (problem !== undefined) {
    report.note(`skipped: ${problem}`);
    return;
  }
  const start = { transport: "tls", certificate: makeCertificate() } as const;
  await measureStreams(report, ["dmq", "kamailio tlsf", "kamailio qm"], start, 1);
});
