/** Tables whose columns are typed arrays: there is one row for each message of a busy node, and no object. */

/** No row. */
export const NO_ROW = -1;

/** @returns `to`, which begins with what `from` holds */
export function grown<A extends { set(from: A): void }>(from: A, to: A): A {
  to.set(from);
  return to;
}
