/**
 * Who imports whom, read from the text of the sources: the tidy test judges it, and `npm run graph` prints it by folder.
 *
 * A scanner and not a parser: it blanks comments and literals, keeping every offset, so that a word found afterwards is
 * a word of code. It knows as much about regular expressions as it needs to tell one from a division.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize, relative, sep } from "node:path";

/** The repository. */
export const ROOT: string = join(import.meta.dir, "..", "..");

/** Where the house is entered: the executable, the library, and the thread of the store (build.ts). */
export const ENTRIES: readonly string[] = ["bin/dmq.ts", "src/index.ts", "src/queue/worker.ts"];

export interface Import {
  /** As written. */
  specifier: string;
  /** Path from the repository's root with `/`, or `undefined` for a package. */
  file: string | undefined;
  /** `import type` and `export type`: nothing of it is left at run time. */
  typeOnly: boolean;
}

/** File (path from the root, with `/`) to its imports, in order of the file. */
export type ImportGraph = Map<string, Import[]>;

const LITERAL_MAY_FOLLOW = /(?:^|[([{,;:=!&|?+\-*%<>~^]|\b(?:return|typeof|case|in|of|do|else|void|delete|await))\s*$/;

/** Blanks comments and the inside of strings, templates and regular expressions; every other octet keeps its offset. */
export function codeOnly(source: string): string {
  const out = source.split("");
  const blank = (from: number, to: number): void => {
    for (let i = from; i < to; i++) if (out[i] !== "\n") out[i] = " ";
  };
  // One entry per open template: how many braces are open inside its current substitution.
  const templates: number[] = [];
  let i = 0;
  while (i < source.length) {
    const char = source[i] as string;
    if (char === "/" && source[i + 1] === "/") i = blanked(blank, i, lineEnd(source, i));
    else if (char === "/" && source[i + 1] === "*") i = blanked(blank, i, after(source, "*/", i + 2));
    else if (char === '"' || char === "'") i = blanked(blank, i + 1, stringEnd(source, i)) + 1;
    else if (char === "`" || (char === "}" && templates.at(-1) === 0)) {
      if (char === "}") templates.pop();
      const end = templateEnd(source, i + 1);
      blank(i + 1, end);
      if (source[end] === "$") templates.push(0);
      i = end + (source[end] === "$" ? 2 : 1);
    } else if (char === "/" && LITERAL_MAY_FOLLOW.test(out.slice(Math.max(0, i - 60), i).join(""))) {
      i = blanked(blank, i + 1, regexEnd(source, i)) + 1;
    } else {
      if (templates.length > 0 && char === "{") templates[templates.length - 1] = (templates.at(-1) as number) + 1;
      if (templates.length > 0 && char === "}") templates[templates.length - 1] = (templates.at(-1) as number) - 1;
      i++;
    }
  }
  return out.join("");
}

function blanked(blank: (from: number, to: number) => void, from: number, to: number): number {
  blank(from, to);
  return to;
}

function lineEnd(source: string, from: number): number {
  const end = source.indexOf("\n", from);
  return end === -1 ? source.length : end;
}

function after(source: string, mark: string, from: number): number {
  const at = source.indexOf(mark, from);
  return at === -1 ? source.length : at + mark.length;
}

function stringEnd(source: string, open: number): number {
  for (let i = open + 1; i < source.length; i++) {
    if (source[i] === "\\") i++;
    else if (source[i] === source[open] || source[i] === "\n") return i;
  }
  return source.length;
}

/** Offset of the closing backtick, or of the `$` that opens a substitution. */
function templateEnd(source: string, from: number): number {
  for (let i = from; i < source.length; i++) {
    if (source[i] === "\\") i++;
    else if (source[i] === "`" || (source[i] === "$" && source[i + 1] === "{")) return i;
  }
  return source.length;
}

function regexEnd(source: string, open: number): number {
  let inClass = false;
  for (let i = open + 1; i < source.length; i++) {
    const char = source[i];
    if (char === "\\") i++;
    else if (char === "[") inClass = true;
    else if (char === "]") inClass = false;
    else if ((char === "/" && !inClass) || char === "\n") return i;
  }
  return source.length;
}

/** Static, re-exporting, side-effect and dynamic imports of one file, lazy ones too: they load code all the same. */
export function importsOf(file: string, source: string): Import[] {
  const code = codeOnly(source);
  const found: Import[] = [];
  const statement =
    /(?<![.\w$])(?:(?:import|export)(\s+type\b)?[\w$\s,{}*]*?\bfrom\s*|import\s*|import\s*\(\s*)(["'])( *)\2/g;
  for (const match of code.matchAll(statement)) {
    const start = match.index + match[0].length - (match[3] as string).length - 1;
    const specifier = source.slice(start, start + (match[3] as string).length);
    const isLocal = specifier.startsWith(".");
    const target = isLocal
      ? normalize(join(dirname(file), specifier))
          .split(sep)
          .join("/")
      : undefined;
    found.push({ specifier, file: target, typeOnly: match[1] !== undefined });
  }
  return found;
}

/** Paths from the root with `/`, sorted, of all files below `folder` (none where it does not exist). */
export function filesBelow(folder: string, skip: ReadonlySet<string> = new Set()): string[] {
  const absolute = join(ROOT, folder);
  if (!existsSync(absolute)) return [];
  const found: string[] = [];
  for (const entry of readdirSync(absolute, { withFileTypes: true })) {
    if (skip.has(entry.name)) continue;
    const path = join(absolute, entry.name);
    const name = relative(ROOT, path).split(sep).join("/");
    if (entry.isDirectory()) found.push(...filesBelow(name, skip));
    else if (entry.isFile()) found.push(name);
  }
  return found.sort();
}

export function readText(file: string): string {
  return readFileSync(join(ROOT, file), "utf8");
}

export function readGraph(files: readonly string[]): ImportGraph {
  return new Map(files.map((file) => [file, importsOf(file, readText(file))]));
}

/** `src/sip/uri.ts` → `sip`; the files at the top of `src` and everything outside stand for themselves. */
export function folderOf(file: string): string {
  const [top, folder, ...rest] = file.split("/");
  return top === "src" && rest.length > 0 ? (folder as string) : file;
}

/** Files that can be reached from `roots` by imports of any kind, the roots included. */
export function reachable(graph: ImportGraph, roots: readonly string[]): Set<string> {
  const seen = new Set<string>();
  const queue = roots.filter((root) => graph.has(root));
  for (let file = queue.pop(); file !== undefined; file = queue.pop()) {
    if (seen.has(file)) continue;
    seen.add(file);
    for (const { file: target } of graph.get(file) ?? [])
      if (target !== undefined && graph.has(target)) queue.push(target);
  }
  return seen;
}

/** Each circle once, as the path that closes it: `["a.ts", "b.ts", "a.ts"]`. Type imports count: a knot is a knot. */
export function cycles(graph: ImportGraph): string[][] {
  const done = new Set<string>();
  const found: string[][] = [];
  const visit = (file: string, path: string[]): void => {
    const at = path.indexOf(file);
    if (at !== -1) found.push([...path.slice(at), file]);
    if (at !== -1 || done.has(file)) return;
    for (const { file: target } of graph.get(file) ?? []) {
      if (target !== undefined && graph.has(target)) visit(target, [...path, file]);
    }
    done.add(file);
  };
  for (const file of graph.keys()) visit(file, []);
  return found;
}

/** A line per folder: how many files it has, and which folders and packages they import, with the number of imports. */
function printGraph(): void {
  const files = [...filesBelow("bin"), ...filesBelow("src")].filter((file) => file.endsWith(".ts"));
  const graph = readGraph(files);
  const folders = new Map<string, { files: number; imports: Map<string, number> }>();
  for (const [file, imports] of graph) {
    const folder = folders.get(folderOf(file)) ?? { files: 0, imports: new Map<string, number>() };
    folders.set(folderOf(file), folder);
    folder.files++;
    for (const { specifier, file: target } of imports) {
      const name = target === undefined ? specifier : folderOf(target);
      if (name !== folderOf(file)) folder.imports.set(name, (folder.imports.get(name) ?? 0) + 1);
    }
  }
  for (const [name, { files: count, imports }] of folders) {
    const targets = [...imports].sort(([a], [b]) => (a < b ? -1 : 1)).map(([target, times]) => `${target} ×${times}`);
    console.log(`${`${name} (${count})`.padEnd(20)} → ${targets.join(", ") || "–"}`);
  }
  const circles = cycles(graph);
  for (const circle of circles) console.log(`circle: ${circle.join(" → ")}`);
  const reached = reachable(graph, ENTRIES);
  const orphans = files.filter((file) => !reached.has(file) && folderOf(file) !== "sim");
  for (const orphan of orphans) console.log(`nobody imports: ${orphan}`);
  console.log(`${files.length} files, ${circles.length} circles, ${orphans.length} that nobody imports`);
}

if (import.meta.main) printGraph();
