/** Lines on stdin, an answer of one line of JSON for each; the end of stdin is the end of the process. */

export type Command = (words: string[]) => Promise<unknown>;

/** Says `ready`, then does what it is told, one thing at a time. */
export async function commands(known: Readonly<Record<string, Command>>): Promise<void> {
  process.stdout.write("ready\n");
  let pending = "";
  const decoder = new TextDecoder();
  for await (const chunk of Bun.stdin.stream()) {
    const lines = (pending + decoder.decode(chunk, { stream: true })).split("\n");
    pending = lines.pop() as string;
    for (const line of lines) {
      const [name = "", ...words] = line.split(" ");
      const command = known[name];
      const answer = command === undefined ? { error: `${name} is no command` } : await command(words);
      process.stdout.write(`${JSON.stringify(answer)}\n`);
    }
  }
  process.exit(0);
}
