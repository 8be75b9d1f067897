/**
 * Makes `dist/dmq`: one executable with the runtime in it, and its man pages in `dist/man`. `npm run build`, or with `--target bun-linux-arm64` and the
 * like for another machine (docs of Bun: cross-compiling), `--outfile PATH` for another place.
 */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { BunPlugin } from "bun";

const ROOT = import.meta.dir;

function option(name: string): string | undefined {
  const index = process.argv.indexOf(`--${name}`);
  return index === -1 ? undefined : process.argv[index + 1];
}

/** Empty outside of a repository, for example in an unpacked archive: then the version has to do. */
function commit(): string {
  if (!existsSync(join(ROOT, ".git")) || Bun.which("git") === null) return "";
  const git = Bun.spawnSync(["git", "rev-parse", "--short=9", "HEAD"], { cwd: ROOT, stderr: "ignore" });
  return git.success ? git.stdout.toString().trim() : "";
}

/**
 * citty hands every word to `parseArgs` of `node:util`, and nothing of ours looks at what it read (src/cli/citty.ts). Loading that
 * module is a quarter of what `dmq send` takes on top of an empty program, so citty gets what it makes do with itself when
 * `parseArgs` throws.
 */
const WITHOUT_PARSER: BunPlugin = {
  name: "citty without node:util",
  setup(build) {
    build.onLoad({ filter: /\/citty\/dist\/index\.mjs$/ }, ({ path }) => {
      const source = readFileSync(path, "utf8");
      const contents = source.replace(
        /^import \{ parseArgs as (\S+) \} from "node:util";$/m,
        (_, name) => `const ${name} = ({ args }) => ({ values: {}, positionals: args });`,
      );
      if (contents === source) throw new Error(`${path} does not import parseArgs from node:util any more: look at it`);
      return { contents, loader: "js" };
    });
  },
};

/** How the executable is bundled; test/executable/lazy.test.ts looks at the pieces. */
export const BUNDLE: Bun.BuildConfig = {
  entrypoints: [join(ROOT, "bin", "dmq.ts"), join(ROOT, "src", "queue", "worker.ts")],
  target: "bun",
  minify: true,
  // In pieces: a command reads what it needs and nothing of the daemon (docs/decisions/0010-start-up.md).
  format: "esm",
  splitting: true,
  sourcemap: "none",
  plugins: [WITHOUT_PARSER],
  throw: false,
};

async function compile(): Promise<void> {
  const outfile = option("outfile") ?? join(ROOT, "dist", "dmq");
  const target = option("target");
  const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { version: string };
  mkdirSync(dirname(outfile), { recursive: true });
  const result = await Bun.build({
    ...BUNDLE,
    compile: {
      outfile,
      // The executable reads nothing of the folder that it is started in but what its options name.
      autoloadDotenv: false,
      autoloadBunfig: false,
      ...(target !== undefined && { target: target as Bun.Build.CompileTarget }),
    },
    // Parsed ahead of time.
    bytecode: true,
    define: {
      DMQ_BUILD_VERSION: JSON.stringify(version),
      DMQ_BUILD_COMMIT: JSON.stringify(commit()),
      // Where Bun puts the second entry point, seen from the pieces, which all lie at the root.
      DMQ_BUILD_WORKER: JSON.stringify("./src/queue/worker.js"),
    },
  });
  for (const log of result.logs) console.error(String(log));
  if (!result.success) process.exitCode = 1;
  else console.log(`${outfile} ${version}`);
}

/** Beside the executable, in the tree that `man` looks for: `MANPATH=dist/man man dmq-send`. */
async function writeManPages(): Promise<void> {
  const { commandPage, overviewPage, pageName } = await import("./src/cli/man.ts");
  const { describeAll, flattened } = await import("./src/cli/describe.ts");
  const { ALL_COMMANDS } = await import("./src/cli/tree.ts");
  const directory = join(ROOT, "dist", "man", "man1");
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory, { recursive: true });
  const commands = await describeAll(ALL_COMMANDS);
  writeFileSync(join(directory, "dmq.1"), overviewPage(commands));
  for (const command of flattened(commands))
    writeFileSync(join(directory, `${pageName(command.name)}.1`), commandPage(command));
}

if (import.meta.main) {
  await compile();
  // What is built for another place is for somebody who packs it.
  if (option("outfile") === undefined) await writeManPages();
}
