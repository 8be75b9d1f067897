/** How many connections fit the descriptors that the kernel lets a process have. */
import { expect, test } from "bun:test";
import { connectionsMax } from "../../src/transport/descriptors.ts";

test.each([
  ["Max open files            20000                20000                files     ", 1_000],
  ["Max open files            1024                 524288               files     ", 256],
  ["Max open files            32                   32                   files     ", 8],
  ["Max open files            3                    3                    files     ", 1],
  ["Max open files            unlimited            unlimited            files     ", 1_000],
  ["", 1_000],
])("descriptors: %j is %d connections", (limits, expected) => {
  expect(connectionsMax(`Max processes 1 1 processes\n${limits}\nMax locked memory 8 8 bytes\n`)).toBe(expected);
});

test("descriptors: this process may have some", () => {
  expect(connectionsMax()).toBeGreaterThan(0);
});
