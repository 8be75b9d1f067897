/** The commands that ask the daemon one thing, print nothing when it is done, and leave the rest to the exit code. */
import type { Arguments } from "./command.ts";
import type { CliContext } from "./context.ts";
import { EXIT } from "./exit.ts";
import { ANSWER_MS_MAX, connectDaemon } from "./socket.ts";

/** @param done  what to say on a terminal; elsewhere success is silent */
export async function ask(
  context: CliContext,
  args: Arguments,
  method: string,
  params: unknown,
  done: string,
  timeoutMs: number = ANSWER_MS_MAX,
): Promise<number> {
  await connectDaemon(context, args).call(method, params, { timeoutMs });
  if (context.isTty.stderr) context.stderr(`${done}\n`);
  return EXIT.ok;
}
