/**
 * Makes `dist/dmq`: one executable with the runtime in it. `npm run build`, or with `--target bun-linux-arm64` and the
 * like for another machine (docs of Bun: cross-compiling), `--outfile PATH` for another place.
 */
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";

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

const outfile = option("outfile") ?? join(ROOT, "dist", "dmq");
const target = option("target");
const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { version: string };
mkdirSync(dirname(outfile), { recursive: true });

const result = await Bun.build({
  entrypoints: [join(ROOT, "bin", "dmq.ts")],
  compile: {
    outfile,
    // The executable reads nothing of the folder that it is started in but what its options name.
    autoloadDotenv: false,
    autoloadBunfig: false,
    ...(target !== undefined && { target: target as Bun.Build.CompileTarget }),
  },
  minify: true,
  // Parsed ahead of time: `dmq send` starts in a few milliseconds more than the runtime itself.
  bytecode: true,
  format: "cjs",
  sourcemap: "none",
  define: { DMQ_BUILD_VERSION: JSON.stringify(version), DMQ_BUILD_COMMIT: JSON.stringify(commit()) },
  throw: false,
});

for (const log of result.logs) console.error(String(log));
if (!result.success) process.exitCode = 1;
else console.log(`${outfile} ${version}`);
