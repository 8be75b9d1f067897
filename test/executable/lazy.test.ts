/**
 * What the executable reads for a command: the pieces of the bundle that are reached from its entry, and from those that the
 * command loads, without a further `import()`. Each of them costs time at every start (docs/decisions/0010-start-up.md).
 */
import { beforeAll, describe, expect, test } from "bun:test";
import { BUNDLE } from "../../build.ts";

/** What Bun says of one piece; its types do not know the option yet. */
interface Piece {
  entryPoint?: string;
  inputs: Record<string, unknown>;
  imports: { path: string; kind: string }[];
}

interface Loaded {
  /** Files of ours and of packages. */
  files: string[];
  /** Modules of Node's that are loaded with them, without `node:`, as Bun writes them. */
  builtins: string[];
}

const BUILD_MS = 30_000;
const EVERY_COMMAND = ["bin/dmq.ts", "src/cli/citty.ts"];

const pieces = new Map<string, Piece>();
const texts = new Map<string, string>();

beforeAll(async () => {
  const options: object = { ...BUNDLE, metafile: true };
  const result = await Bun.build(options as Bun.BuildConfig);
  expect(result.logs.map(String)).toEqual([]);
  const { metafile } = result as unknown as { metafile: { outputs: Record<string, Piece> } };
  for (const [path, piece] of Object.entries(metafile.outputs)) pieces.set(path, piece);
  for (const output of result.outputs) texts.set(output.path, await output.text());
}, BUILD_MS);

function pieceOf(entryPoint: string): string {
  const found = [...pieces].find(([, piece]) => piece.entryPoint === entryPoint);
  if (found === undefined) throw new Error(`${entryPoint} is no piece of its own`);
  return found[0];
}

/** What is loaded with these files, each of them the beginning of a piece. */
function loadedBy(...entryPoints: readonly string[]): Loaded {
  const seen = new Set<string>();
  const queue = entryPoints.map(pieceOf);
  for (let path = queue.pop(); path !== undefined; path = queue.pop()) {
    if (seen.has(path)) continue;
    seen.add(path);
    const { imports } = pieces.get(path) as Piece;
    queue.push(
      ...imports.filter(({ kind, path: to }) => kind === "import-statement" && pieces.has(to)).map((one) => one.path),
    );
  }
  const files = [...seen].flatMap((path) => Object.keys((pieces.get(path) as Piece).inputs));
  const builtins = [...seen].flatMap((path) =>
    [...(texts.get(path) as string).matchAll(/\b(?:from|import)\s*"([^."][^"]*)"/g)].map((match) => match[1] as string),
  );
  return { files: files.sort(), builtins: [...new Set(builtins)].sort() };
}

/** The folder in `src`, or the package. */
function placeOf(file: string): string {
  const [, name] = /(?:^|\/)node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(file) ?? /^(src\/[^/]+|bin)\//.exec(file) ?? [];
  return name ?? file;
}

function placesOf({ files }: Loaded): string[] {
  return [...new Set(files.map(placeOf))].sort();
}

describe("what a command loads", () => {
  test("--version: the front of the command line, no package and no module of Node's", () => {
    const loaded = loadedBy("bin/dmq.ts", "src/cli/version.ts");
    expect(placesOf(loaded)).toEqual(["bin", "src/cli", "src/core"]);
    expect(loaded.builtins).toEqual([]);
  });

  for (const command of ["send", "bcast", "list"]) {
    test(`${command}: the client of the control socket, and nothing of the node or its daemon`, () => {
      const loaded = loadedBy(...EVERY_COMMAND, `src/cli/${command}.ts`);
      expect(placesOf(loaded)).toEqual(["bin", "citty", "src/cli", "src/core", "src/rpc"]);
      expect(loaded.files.filter((file) => file.startsWith("src/rpc/"))).toEqual([
        ...["src/rpc/client.ts", "src/rpc/paths.ts", "src/rpc/surface.ts"],
      ]);
      expect(loaded.builtins).toEqual(["fs", "path"]);
      expect(
        loaded.files.filter((file) => /^src\/(queue|consume|amqp|cli\/queue|cli\/amqp)(\/|\.ts$)/.test(file)),
      ).toEqual([]);
      // What -l needs is loaded by -l.
      expect(loaded.files.filter((file) => /cli\/(batch|lines|progress)\.ts$/.test(file))).toEqual([]);
    });
  }

  // What knows the protocol, and who reads the configuration for it: a daemon that has brokers does that for the commands.
  const connecting =
    /amqplib|^src\/amqp\/(client|connection|zone|publisher|consumer|asker|options)\.ts$|^src\/config\//;

  for (const command of ["publish", "query", "get", "status", "topology"]) {
    test(`amqp ${command}: nothing that connects to a broker, as long as a daemon does`, () => {
      const loaded = loadedBy(...EVERY_COMMAND, "src/cli/amqp.ts", `src/cli/amqp/${command}.ts`);
      expect(loaded.files.filter((file) => connecting.test(file))).toEqual([]);
      expect(loadedBy("src/cli/amqp/own.ts").files.filter((file) => connecting.test(file))).toContain(
        "src/amqp/client.ts",
      );
    });
  }

  test("serve: nothing of brokers before the configuration names one, and the library only where one is connected to", () => {
    const loaded = loadedBy(...EVERY_COMMAND, "src/cli/serve.ts");
    expect(
      loaded.files.filter((file) => /amqplib|^src\/amqp\/(client|connection|desk|options)\.ts$/.test(file)),
    ).toEqual([]);
    expect(loadedBy("src/amqp/client.ts").files.filter((file) => file.includes("amqplib"))).toEqual([]);
    const everywhere = [...pieces.values()].flatMap(({ inputs }) => Object.keys(inputs));
    expect(everywhere.filter((file) => file.includes("amqplib"))).not.toEqual([]);
  });

  test("serve: all of them, so that what is missing above is missing", () => {
    const loaded = loadedBy(...EVERY_COMMAND, "src/cli/serve.ts");
    expect(placesOf(loaded)).toContainValues([
      "src/daemon",
      "src/node",
      "src/sip",
      "src/transport",
      "consola",
      "valibot",
    ]);
    expect(loaded.builtins).toContain("net");
  });
});
