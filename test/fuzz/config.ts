/**
 * Invariant: any file, flags and environment give a configuration or a ConfigError that names the place, what was seen and what
 * is allowed on one line; and what was accepted lies within the bounds of its options.
 */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { loadConfig } from "../../src/config/load.ts";
import { CONFIG_OPTIONS, type ConfigOption, environmentOf } from "../../src/config/schema.ts";
import { concatBytes, decodeUtf8, encodeUtf8 } from "../../src/core/bytes.ts";
import { ConfigError } from "../../src/core/errors.ts";
import { mutated } from "./octets.ts";
import { must, type Target } from "./target.ts";

interface Input {
  toml: Uint8Array;
  flags: [string, string[]][];
  env: [string, string][];
}

const FOLDER = mkdtempSync(join(tmpdir(), "dmq-fuzz-"));
process.on("exit", () => rmSync(FOLDER, { recursive: true, force: true }));
const FILE = join(FOLDER, "dmq.toml");

function checkBounds(option: ConfigOption, value: unknown): void {
  const [low, high] = option.bounds ?? [];
  for (const one of Array.isArray(value) ? value : [value]) {
    if (low !== undefined && high !== undefined && typeof one === "number")
      must(one >= low && one <= high, `${option.name} is ${one}, bounds ${low} to ${high}`);
    if (option.choices !== undefined && one !== undefined)
      must(option.choices.includes(String(one)), `${option.name} is ${String(one)}`);
    must(typeof one !== "number" || Number.isFinite(one), `${option.name} is ${one}`);
  }
}

function run({ toml, flags, env }: Input): string[] {
  writeFileSync(FILE, toml);
  try {
    const { config, warnings } = loadConfig({ flags: new Map(flags), env: Object.fromEntries(env), file: FILE });
    for (const option of CONFIG_OPTIONS) checkBounds(option, config[option.property]);
    return ["accepted", `${warnings.length} warnings`];
  } catch (cause) {
    if (!(cause instanceof ConfigError)) throw cause;
    must(!/[\r\n]/.test(cause.message), `an error of several lines: ${JSON.stringify(cause.message)}`);
    must(cause.message.length <= 16_384, `an error of ${cause.message.length} characters`);
    return [`${cause.code} ${cause.option.replace(/ in .*/s, "").slice(0, 40)}`];
  }
}

const text = fc.oneof(
  fc.constantFrom(
    "0",
    "1",
    "-1",
    "yes",
    "no",
    "1500ms",
    "2s",
    "1m",
    "1e9",
    "99999999999999999999",
    "NaN",
    "",
    " ",
    "\0",
    "ж",
    "a\nb",
  ),
  fc.constantFrom(
    "sip:127.0.0.1:5060",
    "sips:[::1]:5061",
    "sip:127.0.0.1:5060;transport=tls",
    "udp:127.0.0.1:5060",
    "tcp:[::1]:0",
  ),
  fc.constantFrom("lab=echo hi", "peer-up=x", "REGISTER=200", "127.0.0.1:53", "10.0.0.0/8", "peer", "none", "debug"),
  fc.string({ maxLength: 20 }),
);
const optionName = fc.constantFrom(...CONFIG_OPTIONS.map(({ name }) => name));
const scalar = fc.oneof(
  text.map((one) => JSON.stringify(one)),
  fc.constantFrom(
    "0",
    "1",
    "-1",
    "0x10",
    "1_000",
    "1.5",
    "inf",
    "nan",
    "true",
    "false",
    "1979-05-27",
    "{}",
    "{ a = 1 }",
    "[]",
    "[[]]",
  ),
  fc.integer().map(String),
);
const entry = fc.oneof(
  fc.tuple(optionName, scalar).map(([name, value]) => `${name} = ${value}\n`),
  fc.tuple(optionName, fc.array(scalar, { maxLength: 3 })).map(([name, list]) => `${name} = [${list.join(", ")}]\n`),
  fc.constantFrom(
    "[tls]\n",
    "[tls\n",
    'cert = "x"\n',
    "[[handler]]\n",
    "# ж\n",
    "a.b.c = 1\n",
    "'''",
    '"""\n',
    "\0",
    "\ufeff",
  ),
);
const toml = fc.array(entry, { maxLength: 8 }).map((parts) => encodeUtf8(parts.join("")));
const PIECES = [
  "\n",
  "=",
  "[",
  "]",
  "{",
  "}",
  '"',
  "'",
  "\\",
  "\\u0000",
  "\\uD800",
  "[tls]\n",
  "ping_interval",
  "tls_cert",
  " ",
  "#",
].map(encodeUtf8);

export const config: Target<Input> = {
  name: "config",
  inputs: (pool) =>
    fc.record({
      toml: fc.oneof(
        { weight: 3, arbitrary: toml },
        { weight: 1, arbitrary: fc.tuple(toml, mutated(PIECES, pool, 3)).map(concatBytes) },
      ),
      flags: fc.array(fc.tuple(optionName, fc.array(text, { maxLength: 3 })), { maxLength: 2 }),
      env: fc.array(fc.tuple(fc.constantFrom(...CONFIG_OPTIONS.map(environmentOf)), text), { maxLength: 2 }),
    }) as fc.Arbitrary<Input>,
  run,
  seedOf: ({ toml: octets }) => encodeUtf8(decodeUtf8(octets).slice(0, 4_096)),
};

export const CONFIG_FILES: readonly Uint8Array[] = [
  'server_address = "sip:127.0.0.1:5060"\nnotification_address = ["sip:127.0.0.2:5060"]\nping_interval = 10\n[tls]\nverify = "none"\n',
].map(encodeUtf8);
