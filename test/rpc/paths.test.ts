import { describe, expect, test } from "bun:test";
import { ConfigError } from "../../src/core/errors.ts";
import { checkSocketPath, controlSocketPath, type Environment, stateDirectory } from "../../src/rpc/paths.ts";

const SOCKET_CASES: [string, Environment, string][] = [
  ["DMQ_SOCKET wins", { DMQ_SOCKET: "/a/s", RUNTIME_DIRECTORY: "/r", XDG_RUNTIME_DIR: "/x" }, "/a/s"],
  ["a relative DMQ_SOCKET stays relative", { DMQ_SOCKET: "s.sock" }, "s.sock"],
  ["RUNTIME_DIRECTORY is next", { RUNTIME_DIRECTORY: "/run/unit", XDG_RUNTIME_DIR: "/x" }, "/run/unit/dmq.sock"],
  ["of several runtime directories the first", { RUNTIME_DIRECTORY: "/run/a:/run/b" }, "/run/a/dmq.sock"],
  ["a final slash is not doubled", { RUNTIME_DIRECTORY: "/run/a/" }, "/run/a/dmq.sock"],
  ["XDG_RUNTIME_DIR has a directory for us", { XDG_RUNTIME_DIR: "/run/user/7" }, "/run/user/7/dmq/dmq.sock"],
  ["a relative XDG_RUNTIME_DIR is ignored", { XDG_RUNTIME_DIR: "user" }, "/run/dmq/dmq.sock"],
  ["empty is unset", { DMQ_SOCKET: "", RUNTIME_DIRECTORY: "", XDG_RUNTIME_DIR: "" }, "/run/dmq/dmq.sock"],
  ["without anything", {}, "/run/dmq/dmq.sock"],
];

describe("control socket path", () => {
  test.each(SOCKET_CASES)("%s", (_name, env, expected) => {
    expect(controlSocketPath(env)).toBe(expected);
  });

  test("107 bytes are a path, 108 are a configuration error that shows it", () => {
    const longest = `/${"a".repeat(106)}`;
    expect(controlSocketPath({ DMQ_SOCKET: longest })).toBe(longest);
    expect(() => controlSocketPath({ DMQ_SOCKET: `${longest}b` })).toThrow("(108 bytes), expected at most 107 bytes");
  });

  test("octets count, not characters", () => {
    expect(() => checkSocketPath(`/${"é".repeat(54)}`)).toThrow(ConfigError);
  });

  test.each(["", "a\0b"])("%j is no path", (path) => {
    expect(() => checkSocketPath(path)).toThrow(ConfigError);
  });
});

const STATE_CASES: [string, Environment, string][] = [
  ["STATE_DIRECTORY wins", { STATE_DIRECTORY: "/var/lib/u:/b", XDG_STATE_HOME: "/x", HOME: "/h" }, "/var/lib/u"],
  ["XDG_STATE_HOME is next", { XDG_STATE_HOME: "/x", HOME: "/h" }, "/x/dmq"],
  ["a relative XDG_STATE_HOME is ignored", { XDG_STATE_HOME: "x", HOME: "/h" }, "/h/.local/state/dmq"],
  ["HOME is next", { HOME: "/h" }, "/h/.local/state/dmq"],
  ["HOME may be the root", { HOME: "/" }, "/.local/state/dmq"],
  ["without anything", {}, "/var/lib/dmq"],
];

describe("state directory", () => {
  test.each(STATE_CASES)("%s", (_name, env, expected) => {
    expect(stateDirectory(env)).toBe(expected);
  });
});
