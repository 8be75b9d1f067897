/**
 * Texts with `{field}` in them: the key of an item that a channel's message becomes, the node that an item goes to (queue.md B8), the
 * routing key of what goes to an exchange (amqp.md B9). A field that there is nothing for is the empty text. `{field|enc}` is the field
 * as one word of a routing key.
 */
import { encodeKey } from "../amqp/encode.ts";
import { jsonPath } from "../consume/order.ts";
import { ConfigError } from "../core/errors.ts";
import type { Item } from "../queue/operation.ts";

/** What the fields of a message, or of an item, are made of. */
export interface TemplateFacts {
  readonly channel: string;
  /** URI of the node that it is from. */
  readonly from: string;
  readonly contentType: string;
  readonly body: Uint8Array;
  header(name: string): string;
  /** Only of a message. */
  readonly source?: { readonly ip: string; readonly port: number };
  readonly callId?: string;
  /** Only of an item. */
  readonly key?: string;
  /** Only of what comes from a broker. */
  readonly exchange?: string;
  readonly routingKey?: string;
}

/** What a template is filled from: a message of the bus, an item of a queue, a delivery of a broker. */
export type TemplateOf = "message" | "item" | "delivery";

type Field = (facts: TemplateFacts) => string;

const FIELDS: ReadonlyMap<string, Field> = new Map<string, Field>([
  ["channel", ({ channel }) => channel],
  ["from", ({ from }) => from],
  ["from.host", ({ from }) => hostAndPort(from).host],
  ["from.port", ({ from }) => hostAndPort(from).port],
  ["content_type", ({ contentType }) => contentType],
  ["sha256", ({ body }) => new Bun.CryptoHasher("sha256").update(body).digest("hex")],
]);

const MESSAGE_FIELDS: ReadonlyMap<string, Field> = new Map<string, Field>([
  ["src.ip", ({ source }) => source?.ip ?? ""],
  ["src.port", ({ source }) => String(source?.port ?? "")],
  ["call_id", ({ callId }) => callId ?? ""],
]);

const ITEM_FIELDS: ReadonlyMap<string, Field> = new Map<string, Field>([["key", ({ key }) => key ?? ""]]);

const DELIVERY_FIELDS: ReadonlyMap<string, Field> = new Map<string, Field>([
  ["exchange", ({ exchange }) => exchange ?? ""],
  ["routing_key", ({ routingKey }) => routingKey ?? ""],
  ["routing_key.last", ({ routingKey }) => routingKey?.split(".").at(-1) ?? ""],
]);

const KNOWN: Readonly<Record<TemplateOf, ReadonlyMap<string, Field>>> = {
  message: new Map([...FIELDS, ...MESSAGE_FIELDS]),
  item: new Map([...FIELDS, ...ITEM_FIELDS]),
  delivery: new Map([...FIELDS, ...DELIVERY_FIELDS]),
};

const FREE_FIELDS = ["header.NAME", "json:PATH"];
const ENCODED = "|enc";

export class Template {
  readonly text: string;
  /** It says the same for everything. */
  readonly isPlain: boolean;
  private readonly parts: readonly (string | Field)[];

  /**
   * @param option  that the text is of, for the error
   * @param of      what it is filled from
   * @throws        ConfigError for an unknown field, or a brace that nothing closes
   */
  constructor(text: string, option: string, of: TemplateOf) {
    this.text = text;
    const known = KNOWN[of];
    this.parts = text
      .split(/(\{[^{}]*\})/)
      .filter((part) => part !== "")
      .map((part) => this.part(part, option, known));
    this.isPlain = this.parts.every((part) => typeof part === "string");
  }

  private part(part: string, option: string, known: ReadonlyMap<string, Field>): string | Field {
    const name = /^\{(.*)\}$/.exec(part)?.[1];
    if (name === undefined && !/[{}]/.test(part)) return part;
    const field = name === undefined ? undefined : fieldOf(name, known);
    if (field !== undefined) return field;
    const expected = `text with fields such as ${[...known.keys(), ...FREE_FIELDS].map((one) => `{${one}}`).join(" ")}, or {NAME|enc}`;
    throw new ConfigError("config-invalid-value", option, JSON.stringify(this.text), expected);
  }

  fill(facts: TemplateFacts): string {
    // Without a field there is no brace in it.
    if (this.isPlain) return this.text;
    return this.parts.map((part) => (typeof part === "string" ? part : part(facts))).join("");
  }
}

function fieldOf(text: string, known: ReadonlyMap<string, Field>): Field | undefined {
  const name = text.endsWith(ENCODED) ? text.slice(0, -ENCODED.length) : text;
  const field = known.get(name) ?? freeField(name);
  return field === undefined || name === text ? field : (facts) => encodeKey(field(facts));
}

function freeField(name: string): Field | undefined {
  const header = /^header\.([A-Za-z0-9!%*_+`'~.-]{1,64})$/.exec(name)?.[1];
  if (header !== undefined) return (facts) => facts.header(header);
  const path = /^json:([^.]+(?:\.[^.]+)*)$/.exec(name)?.[1];
  if (path === undefined) return undefined;
  const read = jsonPath(path);
  return ({ body }) => read({ value: body } as Item);
}

/** `sip:user@host:port;…`: the host as written, the port if there is one. */
export function hostAndPort(uri: string): { host: string; port: string } {
  const place = (uri.replace(/^sips?:/i, "").split(/[;?>]/, 1)[0] ?? "").split("@").at(-1) ?? "";
  const match = /^(\[[^\]]*\]|[^:]*)(?::(\d+))?$/.exec(place);
  return { host: match?.[1] ?? "", port: match?.[2] ?? "" };
}
