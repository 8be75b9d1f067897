/** Runs the caller's code: what it throws is the program's to see, after the loop has done its work. */
export function aside(call: () => void): void {
  try {
    call();
  } catch (cause) {
    queueMicrotask(() => {
      throw cause;
    });
  }
}
