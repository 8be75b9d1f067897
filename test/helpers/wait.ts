/** Waiting for what another process does: bounded, and with words for what did not come. */

const STEP_MS = 50;

type Wanted<T> = Exclude<T, undefined | null | false>;

/**
 * Asks again and again until the answer is neither `undefined`, `null` nor `false`.
 *
 * @param condition  may throw while the other side is not there yet; the last error is in the message
 * @param ms         at most this long
 * @param what       completes "… did not come true: "
 * @returns          that answer
 * @throws           Error after `ms`
 */
export async function until<T>(condition: () => T | Promise<T>, ms: number, what: string): Promise<Wanted<T>> {
  const end = performance.now() + ms;
  let problem: unknown = "it was not so";
  do {
    try {
      const answer = await condition();
      if (answer !== undefined && answer !== null && answer !== false) return answer as Wanted<T>;
      problem = "it was not so";
    } catch (error) {
      problem = error;
    }
    await Bun.sleep(STEP_MS);
  } while (performance.now() < end);
  throw new Error(`did not come true within ${ms} ms: ${what} (${problem})`);
}
