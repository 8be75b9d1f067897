/**
 * The name of the handler of a message, out of fields of its JSON body, as Kamailio's kazoo makes the name of an event route (amqp.md
 * A2, B6). The values come from the network and become names of files, so that nothing of them but letters, digits, dots and dashes is left.
 */
import type { JsonValue } from "../core/json-path.ts";
import { objectOf, scalarOf } from "./kazoo.ts";

/** A subscription's own fields; a field that a message lacks then counts as its name. */
export interface EventFields {
  /** A member of the body; with a leading dot a path into it. */
  readonly key?: string;
  readonly subkey?: string;
}

export const EVENT_KEY = "Event-Category";
export const EVENT_SUBKEY = "Event-Name";
export const NAME_CHARS_MAX = 200;
/** Runs once, before anything is consumed. */
export const MOD_INIT = "mod-init";

const EVENT = "consumer-event";

/**
 * @returns names of handlers, the most significant first, each once; only `consumer-event` for what is no JSON object. A name with a
 *          field in it that is missing is left out.
 */
export function eventNames(body: Uint8Array, { key, subkey }: EventFields = {}): string[] {
  const object = objectOf(body);
  if (object === undefined) return [EVENT];
  const keyName = key ?? EVENT_KEY;
  const subkeyName = subkey ?? EVENT_SUBKEY;
  const category = fieldOf(object, keyName) || (key === undefined ? "" : key);
  const name = fieldOf(object, subkeyName) || (subkey === undefined ? "" : subkey);
  const parts = [[category, name], [category], [keyName, subkeyName], [keyName], []].map((fields) => fields.map(part));
  const names = parts.filter((fields) => !fields.includes("")).map((fields) => [EVENT, ...fields].join("-"));
  return [...new Set(names.map((one) => one.slice(0, NAME_CHARS_MAX)))];
}

/** Of a connection that was opened or closed. */
export function connectionNames(state: "open" | "closed"): string[] {
  const body = JSON.stringify({ [EVENT_KEY]: "connection", [EVENT_SUBKEY]: state });
  return eventNames(new TextEncoder().encode(body));
}

/**
 * What an operator writes, as a name of `eventNames`: `kazoo:consumer-event-presence-update`, `Presence_Update` and
 * `presence-update` are one.
 *
 * @returns `undefined` for what is none
 */
export function handlerName(text: string): string | undefined {
  const plain = text.startsWith(PREFIX) ? text.slice(PREFIX.length) : text;
  const name = lower(plain);
  if (name === "" || name.length > NAME_CHARS_MAX || part(plain) !== name) return undefined;
  return name === MOD_INIT || name === EVENT || name.startsWith(`${EVENT}-`) ? name : `${EVENT}-${name}`;
}

/** Kamailio's names have it; files may. */
export const PREFIX = "kazoo:";

function fieldOf(object: JsonValue, name: string): string | undefined {
  return scalarOf(name.startsWith(".") ? object.at(name) : object.member(name));
}

/** @returns nothing but `[a-z0-9.-]`, and no dot in front */
function part(text: string): string {
  // Longer than any name, and short enough for 16 MiB of a value to cost nothing.
  const start = text.replace(/^\.+/, "").slice(0, 2 * NAME_CHARS_MAX);
  return lower(start)
    .replaceAll(/[^a-z0-9.-]/gu, "-")
    .replace(/^\.+/, "")
    .slice(0, NAME_CHARS_MAX);
}

/** As C does without a locale: ASCII only, so that no other letter becomes one of these. */
function lower(text: string): string {
  return text.replaceAll(/[A-Z]/g, (letter) => letter.toLowerCase()).replaceAll("_", "-");
}
