/**
 * Programmer errors crash: an invariant that does not hold means that nothing computed from it can be trusted. Remote
 * octets and operators' options never end here; they become a ProtocolError or a ConfigError.
 */
export function assert(condition: boolean, invariant: string): asserts condition {
  if (!condition) throw new Error(`assertion failed: ${invariant}`);
}

/** Marks the branch that the types say cannot be reached; naming the value helps where the types were wrong. */
export function unreachable(value: never): never {
  throw new Error(`assertion failed: unexpected value ${JSON.stringify(value)}`);
}
