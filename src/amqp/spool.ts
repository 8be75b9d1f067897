/**
 * A message in the spool: the item of a queue that it is stored as, and the message that an item is. Who publishes is somewhere else
 * (src/link/spool.ts).
 */
import type { Item, NewItem } from "../queue/operation.ts";
import { headersOf, type JsonHeaders, propertiesOf, propertiesRow } from "./json.ts";
import type { Publication } from "./message.ts";

export const SPOOL = "amqp.spool";

/** As large as a body may be; the limit of its octets is one of the queue's, `full=reject` is its default. */
export const SPOOL_DEFINITION: string = `name=${SPOOL};bytes=1g;max-value=16m`;

const EXCHANGE = "amqp-exchange";
const KEY = "amqp-key";
const MANDATORY = "amqp-mandatory";
const PROPERTIES = "amqp-properties";

/** Says to a receiver that it may have the message already (amqp.md B4). */
export const REPEAT_HEADER = "x-dmq-repeat";

/** Its key is the exchange: what goes to one exchange keeps its order. */
export function spooled(message: Publication): NewItem {
  const { exchange, routingKey, mandatory = true, contentType, body, ...properties } = message;
  return {
    key: exchange,
    value: body,
    contentType: contentType ?? "application/octet-stream",
    headers: {
      [EXCHANGE]: exchange,
      [KEY]: routingKey,
      [MANDATORY]: mandatory ? "1" : "0",
      [PROPERTIES]: JSON.stringify(propertiesRow({ messageId: crypto.randomUUID(), ...properties })),
    },
  };
}

/**
 * @returns the message; `undefined` for an item that somebody put there without saying where it is to go
 */
export function unspooled(item: Item): Publication | undefined {
  const { [EXCHANGE]: exchange, [KEY]: routingKey, [MANDATORY]: mandatory, [PROPERTIES]: text = "{}" } = item.headers;
  if (exchange === undefined || routingKey === undefined) return undefined;
  const { headers, ...properties } = parse(text);
  // It was with somebody before who did not say how it ended.
  const repeat: JsonHeaders = item.tries > 1 ? { [REPEAT_HEADER]: 1 } : {};
  const all = { ...(headers as JsonHeaders | undefined), ...repeat };
  return {
    ...{ exchange, routingKey, body: item.value, contentType: item.contentType, mandatory: mandatory !== "0" },
    ...propertiesOf(properties),
    ...(Object.keys(all).length > 0 && { headers: headersOf(all) }),
  };
}

function parse(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}
