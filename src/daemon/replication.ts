/**
 * `serve --replicate`: requests of these methods that come from outside the bus are passed to all active nodes and answered
 * here; one that comes from a node is only answered, or two nodes would send it to each other for ever (dmq.md section 10).
 */
import { ConfigError } from "../core/errors.ts";
import type { Logger } from "../core/logger.ts";
import type { IncomingRequest, OutcomeReport } from "../node/io.ts";
import type { RunningNode } from "./driver.ts";

const CODE = 200;

/**
 * @param rules  `METHOD[,METHOD…][=CODE]` each, as the configuration has checked
 * @returns      the methods, and the code that answers each
 * @throws ConfigError `config-contradiction` for two codes of one method
 */
export function readReplication(rules: readonly string[]): Map<string, number> {
  const codes = new Map<string, number>();
  for (const rule of rules) {
    const [methods = "", code] = rule.split("=");
    for (const method of methods.split(",")) add(codes, method, code === undefined ? CODE : Number(code));
  }
  return codes;
}

function add(codes: Map<string, number>, method: string, code: number): void {
  const before = codes.get(method);
  if (before !== undefined && before !== code) {
    const seen = `${method} with ${before} and ${code}`;
    throw new ConfigError("config-contradiction", "replicate", seen, "one code for each method");
  }
  codes.set(method, code);
}

/** Sets the node's route; without rules it sets none. */
export function replicateRequests(node: RunningNode, codes: ReadonlyMap<string, number>, log: Logger): void {
  if (codes.size === 0) return;
  node.onRequest((request) => {
    const code = codes.get(request.method);
    if (code === undefined) return undefined;
    const { callId, source } = { callId: request.request.headers.get("Call-ID"), source: sourceOf(request) };
    if (request.fromNode) log.debug(`${request.method} came from a node: not replicated`, { source, call_id: callId });
    else node.replicate(request).then((reports) => tell(request, reports, log));
    return code;
  });
}

function tell({ method }: IncomingRequest, reports: readonly OutcomeReport[], log: Logger): void {
  if (reports.length === 0) log.debug(`${method} was replicated to nobody: no peer is active`);
  for (const { peer, outcome } of reports) {
    const code = "code" in outcome ? outcome.code : undefined;
    log.debug(`${method} was replicated to ${peer}: ${outcome.type}`, { code });
  }
}

function sourceOf({ source }: IncomingRequest): string {
  return `${source.transport}:${source.ip}:${source.port}`;
}
