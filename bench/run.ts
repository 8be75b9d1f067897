/**
 * Runs benchmarks, one after the other, each a program of its own:
 *
 *   npm run bench [-- NAME…] [-- --quick --json --turns N --seconds S --only WORD]
 */
import { join } from "node:path";

const NAMES = [
  ...["receive", "broadcast", "latency", "tcp", "tls", "codec"],
  ...["rpc", "lines", "cli", "memory", "sim", "growth", "queue", "amqp", "bridge"],
] as const;

function main(argv: readonly string[]): void {
  const firstOption = argv.findIndex((word) => word.startsWith("--"));
  const wanted = firstOption === -1 ? argv : argv.slice(0, firstOption);
  const options = firstOption === -1 ? [] : argv.slice(firstOption);
  const unknown = wanted.filter((name) => !NAMES.some((known) => known === name));
  if (unknown.length > 0) {
    console.error(`no such benchmark: ${unknown.join(", ")}; there are ${NAMES.join(", ")}`);
    process.exitCode = 2;
    return;
  }
  for (const name of wanted.length > 0 ? wanted : NAMES) {
    const command = [process.execPath, join(import.meta.dir, `${name}.ts`), ...options];
    const done = Bun.spawnSync(command, { stdio: ["ignore", "inherit", "inherit"] });
    if (done.exitCode !== 0) process.exitCode = 1;
  }
}

main(process.argv.slice(2));
