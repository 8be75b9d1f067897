/** The rules of `serve --replicate`: which methods are passed on, and what answers them. */
import { describe, expect, test } from "bun:test";
import { ConfigError } from "../../src/core/errors.ts";
import { readReplication } from "../../src/daemon/replication.ts";

function codes(...rules: string[]): Record<string, number> {
  return Object.fromEntries(readReplication(rules));
}

describe("replicate", () => {
  test("replicate: a code is that of all methods of its rule, and 200 without one", () => {
    expect(codes("REGISTER,PUBLISH=202", "MESSAGE")).toEqual({ REGISTER: 202, PUBLISH: 202, MESSAGE: 200 });
    expect(codes("REGISTER=202", "REGISTER,PUBLISH=202")).toEqual({ REGISTER: 202, PUBLISH: 202 });
    expect(codes()).toEqual({});
  });

  test("replicate: two codes for one method contradict", () => {
    for (const rules of [
      ["REGISTER=202", "REGISTER=403"],
      ["REGISTER", "PUBLISH,REGISTER=202"],
    ]) {
      const read = (): unknown => codes(...rules);
      expect(read).toThrow(ConfigError);
      expect(read).toThrow(/REGISTER with .*202/);
    }
  });
});
