/** How a store is opened: its directory, who may open it, what is set aside. */
import { mkdirSync } from "node:fs";
import { Engine } from "./engine.ts";
import { type AnswerOf, answerOf, type Operation, type Outcome, type QueueReport } from "./operation.ts";
import { LOOK_MS, type QueueStore, storePath, Touches } from "./store.ts";

export interface OpenOptions {
  /** The state directory that the store is in. */
  directory: string;
  /** Octets that the file may grow to. */
  bytesMax: number;
  /** Sets a damaged file aside and begins an empty one. */
  repair: boolean;
}

/** @throws QueueError `storage` where it cannot be used */
export function openStore({ directory, bytesMax }: OpenOptions): { engine: Engine; warnings: string[] } {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const engine = new Engine({ path: storePath(directory), bytesMax, now: () => Date.now(), random: Math.random });
  return { engine, warnings: [] };
}

/**
 * Opens the store in this process, for a command where no daemon runs. Commits of others are looked for while somebody waits.
 *
 * @throws QueueError `storage` if it cannot be opened
 */
export function inProcess(options: OpenOptions): QueueStore {
  const { engine, warnings } = openStore(options);
  const touches = new Touches();
  const tell = (): void => {
    touches.tell([...engine.touched]);
    engine.touched.clear();
  };
  let looking: Timer | undefined;
  const look = (): void => {
    if (!engine.isStale()) return;
    const [outcome] = engine.run([{ type: "report" }]);
    if (outcome?.ok === true) touches.tell((outcome.answer as QueueReport[]).map(({ name }) => name));
  };
  return {
    warnings,
    async perform<O extends Operation>(operation: O): Promise<AnswerOf<O>> {
      const [outcome] = engine.run([operation]);
      tell();
      return answerOf(operation, outcome as Outcome);
    },
    onTouched(listener) {
      looking ??= setInterval(look, LOOK_MS);
      const end = touches.on(listener);
      return () => {
        end();
        if (touches.count > 0) return;
        clearInterval(looking);
        looking = undefined;
      };
    },
    async close() {
      clearInterval(looking);
      engine.close();
    },
  };
}
