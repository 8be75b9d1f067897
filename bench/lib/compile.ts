/**
 * The programs of a benchmark, built when it starts: C with the machine's compiler, our servers and the product as the
 * executables that a user would run. They live in a directory of their own that is removed at the end.
 */
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ROOT } from "./machine.ts";

const SOURCES = join(ROOT, "bench");

let directory: string | undefined;

/** Removed when the process ends. */
export function workDirectory(): string {
  if (directory === undefined) {
    const made = mkdtempSync(join(tmpdir(), "dmq-bench-"));
    process.on("exit", () => rmSync(made, { recursive: true, force: true }));
    directory = made;
  }
  return directory;
}

export function hasOpenSsl(): boolean {
  return ["/usr/include", "/usr/local/include"].some((place) => existsSync(join(place, "openssl", "ssl.h")));
}

/** @throws Error where there is no compiler, or it says no */
function compileC(name: string): string {
  const compiler = ["cc", "gcc", "clang"].find((each) => Bun.which(each) !== null);
  if (compiler === undefined) throw new Error("no C compiler (cc, gcc, clang): the generator cannot be built");
  const outfile = join(workDirectory(), name);
  const tls = name === "load" && hasOpenSsl();
  run([
    ...[compiler, "-O2", "-o", outfile, join(SOURCES, "c", `${name}.c`)],
    ...(tls ? ["-DWITH_TLS", "-lssl", "-lcrypto"] : []),
  ]);
  return outfile;
}

/** One of servers/, compiled as the product is (build.ts): minified, in pieces with bytecode, the runtime in it. */
function compileServer(name: string): string {
  const outfile = join(workDirectory(), name);
  run([
    ...[process.execPath, "build", "--compile", "--minify", "--bytecode", "--format=esm", "--splitting"],
    ...[join(SOURCES, "servers", `${name}.ts`), "--outfile", outfile],
  ]);
  return outfile;
}

/** The product of the sources as they are. */
function compileProduct(): string {
  const outfile = join(workDirectory(), "dmq");
  run([process.execPath, join(ROOT, "build.ts"), "--outfile", outfile]);
  return outfile;
}

function once(make: (name: string) => string): (name: string) => string {
  const made = new Map<string, string>();
  return (name) => {
    const path = made.get(name) ?? make(name);
    made.set(name, path);
    return path;
  };
}

/** `load`, `peers`, `echo`, `send` or `spawn`: the path of the program. */
export const program = once(compileC);

/** A server of bench/servers as an executable. */
export const server = once(compileServer);

const product = once(compileProduct);

/** The executable `dmq`. */
export function executable(): string {
  return product("dmq");
}

function run(command: string[]): void {
  const done = Bun.spawnSync(command, { cwd: ROOT, stdout: "pipe", stderr: "pipe" });
  if (!done.success) throw new Error(`${command.slice(0, 4).join(" ")}: ${done.stderr.toString().trim()}`);
}
