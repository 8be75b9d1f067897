/**
 * Invariant: any text that asks for calls is answered with JSON-RPC 2.0 or with nothing at all, never a throw; what reaches the
 * control surface has no control character in it, bodies and replicated requests apart; and a fault has one of our codes.
 */
import fc from "fast-check";
import { encodeUtf8 } from "../../src/core/bytes.ts";
import { answer } from "../../src/rpc/jsonrpc.ts";
import { METHODS } from "../../src/rpc/methods.ts";
import { FakeSurface } from "../rpc/fake-surface.ts";
import { must, type Target } from "./target.ts";

const METHOD_NAMES = [...METHODS.keys()];
const PARAM_NAMES = [...new Set([...METHODS.values()].flatMap(({ required, optional }) => [...required, ...optional]))];

/** Everything a call gave the surface, but octets. */
function texts(value: unknown): string[] {
  if (typeof value === "string") return [value];
  if (value instanceof Uint8Array || typeof value !== "object" || value === null) return [];
  return Object.values(value).flatMap(texts);
}

function hasControl(text: string): boolean {
  for (let i = 0; i < text.length; i++) if (text.charCodeAt(i) < 0x20 || text.charCodeAt(i) === 0x7f) return true;
  return false;
}

interface Reply {
  jsonrpc?: unknown;
  result?: unknown;
  error?: { code?: unknown; message?: unknown };
}

function word(reply: Reply): string {
  must(reply.jsonrpc === "2.0", "an answer that is no JSON-RPC 2.0");
  if (reply.error === undefined) return "result" in reply ? "result" : "neither";
  const { code, message } = reply.error;
  must(Number.isInteger(code) && typeof message === "string", `a fault without code or text: ${JSON.stringify(reply)}`);
  must(code !== -32603, `an internal error: ${message}`);
  return `${code} ${(message as string).replace(/: .*/s, "").slice(0, 40)}`;
}

async function run(text: string): Promise<string[]> {
  const surface = new FakeSurface();
  const replied = await answer(surface, text);
  const calls = surface.calls.filter((call) => typeof call !== "string" || !call.startsWith("replicate "));
  for (const said of calls.flatMap(texts)) must(!hasControl(said), `a control character in ${JSON.stringify(said)}`);
  if (replied === undefined) return ["silence"];
  const reply = JSON.parse(replied) as Reply | Reply[];
  return (Array.isArray(reply) ? reply : [reply]).map(
    (one) => `${surface.calls.length > 0 ? "called " : ""}${word(one)}`,
  );
}

const value = fc.oneof(
  fc.constantFrom<unknown>(
    "active",
    "sip:127.0.0.2:5060",
    "sip:127.0.0.1:5060",
    "channel1",
    "a\r\nX: y",
    "\0",
    "",
    "\ud800",
    "YQ==",
  ),
  fc.constantFrom<unknown>(0, 1, -1, 200, 1e308, 2 ** 53, null, true, false, {}, [], ["sip:127.0.0.2:5060"], ["\n"]),
  fc.string(),
  fc.jsonValue({ maxDepth: 3 }),
);
const params = fc.oneof(
  fc.dictionary(
    fc.oneof(
      { weight: 9, arbitrary: fc.constantFrom(...PARAM_NAMES) },
      { weight: 1, arbitrary: fc.constantFrom("__proto__", "constructor", "x") },
    ),
    value,
    { maxKeys: 5 },
  ),
  fc.array(value, { maxLength: 6 }),
  value,
);
const call = fc.record(
  {
    jsonrpc: fc.constantFrom("2.0", "2.0", "2.0", "1.0", 2),
    method: fc.oneof(fc.constantFrom(...METHOD_NAMES), fc.constantFrom("toString", "__proto__", "dmq.nothing", 7)),
    params,
    id: fc.oneof(fc.integer(), fc.string({ maxLength: 5 }), fc.constant(null), fc.jsonValue({ maxDepth: 1 })),
  },
  { requiredKeys: ["method"] },
);
const batch = fc.oneof(
  { weight: 8, arbitrary: call },
  { weight: 2, arbitrary: fc.array(call, { maxLength: 6 }) },
  { weight: 1, arbitrary: fc.jsonValue() },
);
const damage = fc.tuple(
  fc.nat(),
  fc.nat({ max: 4 }),
  fc.constantFrom("", '"', "{", "[", ",", "\\", "\0", "[".repeat(2_000), "1e999", "\ud800"),
);

export const rpc: Target<string> = {
  name: "rpc",
  inputs: () =>
    fc.tuple(batch, fc.option(damage, { freq: 2 })).map(([asked, hurt]) => {
      // A member `__proto__` is one like any other on the wire.
      const text = JSON.stringify(asked);
      if (hurt === null) return text;
      const [where, gone, put] = hurt;
      const at = where % (text.length + 1);
      return text.slice(0, at) + put + text.slice(at + gone);
    }),
  run,
  seedOf: (text) => encodeUtf8(text),
};
