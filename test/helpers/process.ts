/** Processes that a test runs to their end. */

export interface Finished {
  code: number;
  stdout: string;
  stderr: string;
}

type Piped = Bun.Subprocess<Bun.SpawnOptions.Writable, "pipe", "pipe">;

/** How it ended, and all that it printed. */
export async function finished(child: Piped): Promise<Finished> {
  const [stdout, stderr, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, stdout, stderr };
}

/**
 * Runs a script of a lab.
 *
 * @returns       its stdout
 * @throws Error  where it ends with another code than 0, with what it printed
 */
export async function runScript(
  words: readonly string[],
  { timeoutMs, env = {} }: { timeoutMs: number; env?: Record<string, string> },
): Promise<string> {
  const { code, stdout, stderr } = await finished(
    Bun.spawn(["bash", ...words], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
      env: { ...process.env, ...env },
      timeout: timeoutMs,
    }),
  );
  if (code !== 0) throw new Error(`${words.slice(0, 5).join(" ")} ended with ${code}: ${stdout}${stderr}`);
  return stdout;
}
