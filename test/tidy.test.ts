/**
 * The house rules that a machine can hold (style.md 2, 6 and 8): who may import whom, a pure core, one place for each
 * package, a line of documentation for each error code. They fail with the file and the line to look at.
 */
import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import {
  codeOnly,
  cycles,
  ENTRIES,
  filesBelow,
  folderOf,
  type Import,
  importsOf,
  ROOT,
  reachable,
  readGraph,
  readText,
} from "./helpers/import-graph.ts";

const PURE = ["core", "sip", "transaction", "membership", "node"];

/** What each folder of src may import, besides itself. `type:` allows its types only. */
const MAY_IMPORT = new Map<string, string[]>([
  ["core", []],
  ["sip", ["core"]],
  ["transaction", ["core", "sip"]],
  ["membership", ["core", "sip"]],
  ["node", ["core", "sip", "transaction", "membership"]],
  ["config", ["core"]],
  ["channel", PURE],
  ["sim", [...PURE, "channel"]],
  ["transport", ["core"]],
  ["queue", ["core"]],
  ["rpc", ["core", "type:node", "type:queue", "type:amqp", "type:link"]],
  ["amqp", ["core", "type:consume", "type:queue"]],
  ["exec", ["core"]],
  ["consume", ["core", "exec", "queue"]],
  ["link", ["core", "node", "queue", "exec", "consume", "amqp", "type:channel"]],
  ["daemon", [...PURE, "channel", "transport", "rpc", "exec", "config", "queue", "link", "amqp"]],
  ["guest", [...PURE, "channel", "transport", "rpc"]],
  ["cli", ["core", "rpc", "config", "exec", "type:amqp"]],
]);

/** Files with a rule of their own, and folders in a folder. */
const FILE_MAY_IMPORT = new Map<string, string[]>([
  ["src/cli/serve.ts", ["core", "rpc", "config", "exec", "daemon"]],
  ["src/cli/config.ts", ["core", "rpc", "config", "daemon"]],
  ["src/cli/demo.ts", ["core", "rpc", "config", "exec", "daemon"]],
  ["src/cli/connect.ts", ["core", "rpc", "guest"]],
  ["src/cli/queue", ["core", "rpc", "config", "consume", "queue"]],
  ["src/cli/amqp", ["core", "rpc", "config", "exec", "consume", "queue", "amqp"]],
  ["src/index.ts", ["core", "channel", "daemon", "type:node"]],
  ["bin/dmq.ts", ["cli"]],
]);

/** Words that bring time, chance, concurrency or the machine into a layer that must not know them (style.md 2). */
const IMPURE_WORDS = [
  ...["async", "await", "Promise", "setTimeout", "setInterval", "setImmediate", "queueMicrotask", "Date"],
  ...["performance", "crypto", "process", "console", "Bun", "globalThis", "require", "fetch"],
];

/** A simulated run is a function of its seed, so the bus may not look at a clock or throw dice of its own either. */
const UNREPEATABLE_WORDS = ["Date", "performance", "crypto", "setTimeout", "setInterval", "setImmediate"];

const SOURCES = [...filesBelow("bin"), ...filesBelow("src")].filter((file) => file.endsWith(".ts"));
const TESTS = [...filesBelow("test"), ...filesBelow("bench")].filter((file) => file.endsWith(".ts"));
const BUILD = existsSync(join(ROOT, "build.ts")) ? ["build.ts"] : [];
const GRAPH = readGraph(SOURCES);
const ALL_FILES = filesBelow(".", new Set(["node_modules", "dist", ".git", "fixtures"]));

function lineOf(text: string, offset: number): number {
  return text.slice(0, offset).split("\n").length;
}

/** `file:line word` of each word that stands in code and is no property of something else. */
function wordsIn(file: string, words: readonly string[]): string[] {
  const code = codeOnly(readText(file));
  const pattern = new RegExp(`(?<![.\\w$])(?:${words.join("|")}|Math\\.random)(?![\\w$])`, "g");
  return [...code.matchAll(pattern)].map((match) => `${file}:${lineOf(code, match.index)} ${match[0]}`);
}

function isAllowed(file: string, target: Import): boolean {
  const folder = folderOf(file);
  const goal = folderOf(target.file as string);
  if (goal === folder) return true;
  const own = FILE_MAY_IMPORT.get(file) ?? FILE_MAY_IMPORT.get(file.slice(0, file.lastIndexOf("/")));
  const allowed = own ?? MAY_IMPORT.get(folder) ?? [];
  return allowed.includes(goal) || (target.typeOnly && allowed.includes(`type:${goal}`));
}

function packageOf(specifier: string): string {
  const parts = specifier.split("/");
  return specifier.startsWith("@") ? parts.slice(0, 2).join("/") : (parts[0] as string);
}

describe("the scanner", () => {
  const cases: [name: string, source: string, code: string][] = [
    ["comments go", "a; // Date\n/* Date\n */ b", "a;        \n       \n    b"],
    ["strings go", `x = "Date" + 'Date\\'s'`, `x = "    " + '       '`],
    // biome-ignore lint/suspicious/noTemplateCurlyInString: the case is source text
    ["templates keep what they compute", "`Date ${now(`x ${y}`)} Date` + z", "`     ${now(`  ${y}`)}     ` + z"],
    // biome-ignore lint/suspicious/noTemplateCurlyInString: the case is source text
    ["braces inside a substitution belong to it", "`${f({ a: 1 })}Date`", "`${f({ a: 1 })}    `"],
    ["regular expressions go, divisions stay", 'r = /[/"]Date/; s = a / b / c', "r = /        /; s = a / b / c"],
  ];
  for (const [name, source, code] of cases) test(name, () => expect(codeOnly(source)).toBe(code));

  test("imports of every form are found, with what they name", () => {
    const source = [
      `import type { A } from "./a.ts";`,
      `import {\n  b,\n  type C,\n} from "../core/b.ts";`,
      `export { d } from "./d.ts";`,
      `import "node:fs";`,
      `const e = () => import("./e.ts");`,
      `// import "./no.ts";`,
      `export const f = "./no.ts";`,
      `export function g(h = "./no.ts") {}`,
      `export interface I {\n  readonly type: "./no.ts";\n}`,
    ].join("\n");
    const found = importsOf("src/sip/x.ts", source);
    expect(found.map((one) => one.file ?? one.specifier)).toEqual([
      ...["src/sip/a.ts", "src/core/b.ts", "src/sip/d.ts", "node:fs", "src/sip/e.ts"],
    ]);
    expect(found.map((one) => one.typeOnly)).toEqual([true, false, false, false, false]);
  });

  test("a circle of three is found once", () => {
    const to = (file: string): Import => ({ specifier: file, file, typeOnly: false });
    const graph = new Map([
      ["a", [to("b")]],
      ["b", [to("c")]],
      ["c", [to("a")]],
      ["d", [to("a")]],
    ]);
    expect(cycles(graph)).toEqual([["a", "b", "c", "a"]]);
  });
});

describe("layers", () => {
  test("every folder of src has its line in the import table", () => {
    const folders = new Set(SOURCES.filter((file) => file.split("/").length > 2).map(folderOf));
    expect([...folders].filter((folder) => !MAY_IMPORT.has(folder))).toEqual([]);
    expect(folders.size).toBeGreaterThan(0);
  });

  test("imports go only where the table lets them", () => {
    const wrong: string[] = [];
    for (const [file, imports] of GRAPH) {
      for (const target of imports) {
        if (target.file !== undefined && !isAllowed(file, target)) wrong.push(`${file} imports ${target.file}`);
      }
    }
    expect(wrong).toEqual([]);
  });

  test("every local import names a file that is there, with its extension", () => {
    const missing: string[] = [];
    for (const [file, imports] of readGraph([...SOURCES, ...TESTS, ...BUILD])) {
      for (const { file: target } of imports) {
        if (target !== undefined && !existsSync(join(ROOT, target))) missing.push(`${file} imports ${target}`);
      }
    }
    expect(missing).toEqual([]);
  });

  test("there is no circle of imports", () => expect(cycles(GRAPH).map((circle) => circle.join(" → "))).toEqual([]));

  test("every file can be reached from the command or the library, the simulator from a test", () => {
    const used = reachable(GRAPH, ENTRIES);
    const tested = reachable(readGraph([...SOURCES, ...TESTS]), TESTS);
    const isUsed = (file: string): boolean => used.has(file) || (folderOf(file) === "sim" && tested.has(file));
    expect(SOURCES.filter((file) => !isUsed(file))).toEqual([]);
  });
});

describe("purity", () => {
  const pure = SOURCES.filter((file) => PURE.includes(folderOf(file)));

  test("layers 0 to 4 know no clock, no chance, no machine and no waiting", () => {
    expect(pure.flatMap((file) => wordsIn(file, IMPURE_WORDS))).toEqual([]);
    expect(pure.length).toBeGreaterThan(0);
  });

  test("layers 0 to 4 import nothing but each other", () => {
    const outside = pure.flatMap((file) =>
      (GRAPH.get(file) ?? []).filter((one) => one.file === undefined).map((one) => `${file} imports ${one.specifier}`),
    );
    expect(outside).toEqual([]);
  });

  test("a simulated bus takes time and chance from its seed", () => {
    const sim = SOURCES.filter((file) => folderOf(file) === "sim");
    expect(sim.flatMap((file) => wordsIn(file, UNREPEATABLE_WORDS))).toEqual([]);
  });
});

/** Regular expressions of a file, as they stand there; `RegExp` where one is made at run time. */
function expressionsIn(file: string): string[] {
  const text = readText(file);
  const code = codeOnly(text);
  const literals = [...code.matchAll(/\/ +\/[a-z]*/g)].map(({ index, 0: { length } }) =>
    text.slice(index, index + length),
  );
  const made = [...code.matchAll(/(?<![.\w])RegExp\b/g)].map(() => "RegExp");
  return [...literals, ...made].map((expression) => `${file} ${expression}`);
}

/** What remotes and callers write is read by these; in the codec, the transactions and the membership there are none at all. */
const EXPRESSIONS: readonly string[] = [
  "src/core/time.ts /^(\\d{1,12}(?:\\.\\d{1,6})?)(ms|s|m|h)?$/",
  // Names of headers that a caller adds; one class, bounded.
  "src/node/kdmq.ts /^(?:X-[A-Za-z0-9-]{1,62}|Content-Encoding)$/i",
  // Host names of the operator's own notification addresses.
  "src/node/seeds.ts /^(?:_[^.]+\\.)+/",
  // JSON that we have just written ourselves.
  'src/rpc/fifo.ts /^(\\t*"(?:[^"\\\\\\n]|\\\\.)*":) /gm',
  "src/rpc/kamailio-shape.ts /^\\d{1,9}$/",
  "src/rpc/params.ts /^[A-Za-z0-9+/]*={0,2}$/",
  "src/rpc/queue-methods.ts /[A-Z]/g",
  "src/rpc/reply-fifo.ts /^[A-Za-z0-9_][A-Za-z0-9_.-]*$/",
  "src/rpc/server.ts /^\\d{1,9}$/",
  "src/rpc/server.ts /^\\/queue\\/([^/]+)\\/lease$/",
  "src/rpc/server.ts /^[1-9]\\d{0,8}$/",
];

describe("regular expressions", () => {
  const readers = SOURCES.filter((file) => [...PURE, "channel", "rpc"].includes(folderOf(file)));

  test("what comes from outside is read by those in the list and no other: a new one has to be looked at", () => {
    expect(readers.flatMap(expressionsIn).sort()).toEqual([...EXPRESSIONS].sort());
  });

  test("the scanner sees literals and those made at run time", () => {
    expect(expressionsIn("test/helpers/import-graph.ts").length).toBeGreaterThan(0);
    expect(expressionsIn("test/tidy.test.ts")).toContain("test/tidy.test.ts RegExp");
  });

  test("none of them goes back: 64 KiB of what suits it worst cost next to nothing", () => {
    const parts = ["a", "0", "\t", '"', "\\\\", '\\"', "_a.", "_", "=", "A=", ".", "/queue/", " ", "\n", '\t"a'];
    for (const listed of EXPRESSIONS) {
      const [, body = "", flags = ""] = /^\S+ \/(.*)\/([a-z]*)$/s.exec(listed) ?? [];
      const expression = new RegExp(body, flags);
      for (const part of parts) {
        const text = `${part.repeat(65_536 / part.length)}!`;
        const before = process.cpuUsage();
        text.replace(expression, "");
        const { user } = process.cpuUsage(before);
        expect([listed, part, user / 1_000 < 500]).toEqual([listed, part, true]);
      }
    }
  });
});

describe("habits", () => {
  test("nothing is exported by default or wholesale", () => {
    const found: string[] = [];
    for (const file of [...SOURCES, ...TESTS, ...BUILD]) {
      const code = codeOnly(readText(file));
      for (const match of code.matchAll(/\bexport\s+default\b|\bas\s+default\b|\bexport\s*\*/g)) {
        found.push(`${file}:${lineOf(code, match.index)} ${match[0]}`);
      }
    }
    expect(found).toEqual([]);
  });

  test("file names say what is inside, in kebab-case", () => {
    const vague = new Set(["utils", "util", "misc", "common", "helpers", "helper"]);
    const odd = [...SOURCES, ...TESTS].filter((file) => {
      const name = (file.split("/").at(-1) as string).replace(/(\.test)?\.ts$/, "");
      return vague.has(name) || !/^[a-z0-9]+(-[a-z0-9]+)*$/.test(name);
    });
    expect(odd).toEqual([]);
  });

  test("each run-time package has one file that imports it, and nothing else is imported", () => {
    const dependencies = Object.keys(JSON.parse(readText("package.json")).dependencies as Record<string, string>);
    const users = new Map<string, string[]>(dependencies.map((name) => [name, []]));
    for (const [file, imports] of GRAPH) {
      for (const { specifier, file: target } of imports) {
        if (target !== undefined || specifier.startsWith("node:") || /^bun(:|$)/.test(specifier)) continue;
        const name = packageOf(specifier);
        const known = users.get(name) ?? [];
        users.set(name, known.includes(file) ? known : [...known, file]);
      }
    }
    const counts = [...users].map(([name, files]) => `${name}: ${files.length} (${files.join(", ")})`);
    expect([...users.keys()].sort()).toEqual(dependencies.sort());
    expect(counts.filter((line) => !line.includes(": 1 "))).toEqual([]);
  });

  test("two files call the C library: datagrams in runs, and what a supervisor is told", () => {
    const users = [...GRAPH].filter(([, imports]) => imports.some(({ specifier }) => specifier === "bun:ffi"));
    expect(users.map(([file]) => file).sort()).toEqual(["src/daemon/libc.ts", "src/transport/native.ts"]);
  });

  test("no file names a path of one machine", () => {
    const places = ["work", "home", "Users", "root"].map((place) => `/${place}/`);
    const found = ALL_FILES.filter((file) => /\.(ts|md|json|toml|sh|yml)$|\/run$|^LICENSE$/.test(file)).flatMap(
      (file) =>
        places
          .filter((place) => new RegExp(`(?<![\\w.)}-])${place}`).test(readText(file)))
          .map((place) => `${file}: ${place}`),
    );
    expect(found).toEqual([]);
  });

  test("no file holds two sides of a merge", () => {
    const found = ALL_FILES.filter((file) => /^(<{7}|>{7}) /m.test(readText(file)));
    expect(found).toEqual([]);
  });

  test("a file that a comment or a page names is there", () => {
    const isThere = (name: string): boolean => ALL_FILES.some((file) => `/${file}`.endsWith(`/${name}`));
    const told = (file: string): string =>
      file.endsWith(".md") ? readText(file) : (readText(file).match(/\/\*[\s\S]*?\*\/|\/\/.*/g) ?? []).join("\n");
    const pages = ALL_FILES.filter((file) => file.endsWith(".md") && !file.startsWith("docs/decisions/"));
    const found = [...SOURCES, ...pages].flatMap((file) =>
      [...new Set(told(file).match(/(?<![\w.*/-])[\w./-]*[\w-]\.ts(?!\w)/g) ?? [])]
        .filter((name) => !isThere(name.replace(/^\.{0,2}\//, "")))
        .map((name) => `${file}: ${name}`),
    );
    expect(found).toEqual([]);
  });

  test("the folders of test mirror those of src", () => {
    const own = new Set(["helpers", "fixtures", "interop", "executable", "fuzz"]);
    const strange = TESTS.filter((file) => file.startsWith("test/") && file.split("/").length > 2).filter((file) => {
      const folder = file.split("/")[1] as string;
      return !own.has(folder) && !MAY_IMPORT.has(folder);
    });
    expect(strange).toEqual([]);
  });
});

describe("documents", () => {
  test("every error code has a line in docs/ERRORS.md, and no line is left over", () => {
    const union = /export type ErrorCode =([^;]*);/.exec(readText("src/core/errors.ts"))?.[1] ?? "";
    const codes = [...union.matchAll(/"([a-z-]+)"/g)].map((match) => match[1]);
    const lines = [...readText("docs/ERRORS.md").matchAll(/^\| `([a-z-]+)` \|/gm)].map((match) => match[1]);
    expect(lines.sort()).toEqual(codes.sort());
    expect(codes.length).toBeGreaterThan(0);
  });

  test("the README opens with its two commands, word for word", () => {
    for (const command of ["npm ci && npm start", "npm ci && npm test"])
      expect(readText("README.md")).toContain(command);
  });

  test("every script that the README names is in package.json", () => {
    const scripts = JSON.parse(readText("package.json")).scripts as Record<string, string>;
    const named = [...readText("README.md").matchAll(/npm run ([a-z:]+)/g)].map((match) => match[1] as string);
    expect(named.filter((name) => scripts[name] === undefined)).toEqual([]);
  });
});
