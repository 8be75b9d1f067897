/** What is a link and what is none: each form, option and refusal of queue.md B8 and B9. */
import { describe, expect, test } from "bun:test";
import { ConfigError } from "../../src/core/errors.ts";
import { parseLink, readLinks } from "../../src/link/definition.ts";
import { Template } from "../../src/link/template.ts";

const OPEN = { inbound: new Set<string>(), outbound: new Set<string>() };

function refusal(call: () => unknown): string {
  try {
    call();
  } catch (error) {
    if (error instanceof ConfigError) return error.message;
    throw error;
  }
  throw new Error("it was not refused");
}

describe("link: its text", () => {
  test("a channel into a queue", () => {
    const link = parseLink("channel:alerts -> queue:alert;key={src.ip};name=in");
    expect(link).toMatchObject({ type: "inbound", channel: "alerts", queue: "alert", name: "in", circle: false });
    expect(link.type === "inbound" && link.key.text).toBe("{src.ip}");
  });

  test("a queue to all nodes, with what is usual", () => {
    const link = parseLink("queue:out->channel:alerts");
    expect(link).toMatchObject({
      ...{ type: "outbound", queue: "out", channel: "alerts", name: "queue:out>channel:alerts", node: undefined },
      ...{ require: "any", ordered: true, maxTries: 5, maxBody: undefined, echo: false },
    });
  });

  test("a queue to one node, whose URI has a semicolon", () => {
    const link = parseLink(
      "queue:out -> channel:a;node=sip:192.0.2.1:5060;transport=tcp;require=all;ordered=no;max-tries=2;max-body=64k;echo=yes;",
    );
    expect(link).toMatchObject({ require: "all", ordered: false, maxTries: 2, maxBody: 65_536, echo: true });
    expect(link.type === "outbound" && link.node?.text).toBe("sip:192.0.2.1:5060;transport=tcp");
  });

  test("a queue to a command, which may have semicolons and an equals sign", () => {
    const link = parseLink(`queue:jobs -> exec:sh -c 'x=1; echo "$x"; cat';jobs=4;timeout=5s;order-by=key`);
    expect(link).toMatchObject({ type: "exec", queue: "jobs", jobs: 4, timeoutMs: 5_000, orderByKey: true });
    expect(link.type === "exec" && link.argv.slice(1)).toEqual(["-c", 'x=1; echo "$x"; cat']);
  });

  const topic = { type: "topic", durable: true };

  test("a channel to an exchange, with what is usual", () => {
    const link = parseLink("channel:alerts -> exchange:sip/alert.{from.host|enc}");
    expect(link).toMatchObject({
      ...{ type: "publish", channel: "alerts", until: "stored", lock: undefined, standbyMs: undefined },
      name: "channel:alerts>exchange:sip_alert._from.host_enc_",
      target: { exchange: { ...topic, name: "sip" }, declare: true, mandatory: true, priority: undefined, headers: [] },
    });
    expect(link.type === "publish" && link.target.key.text).toBe("alert.{from.host|enc}");
  });

  test("a channel to an exchange, with all that can be said", () => {
    const options = "until=confirmed;type=fanout;durable=no;declare=no;lock=one;standby=30s;headers=A, b-c;priority=3";
    const link = parseLink(`channel:a -> exchange:x;${options};mandatory=no`);
    expect(link).toMatchObject({
      ...{ until: "confirmed", lock: "one", standbyMs: 30_000 },
      target: {
        ...{ exchange: { name: "x", type: "fanout", durable: false }, declare: false, mandatory: false },
        ...{ headers: ["A", "b-c"], priority: 3 },
      },
    });
    expect(link.type === "publish" && link.target.key.text).toBe("{channel}");
  });

  const undeclared: [name: string, endpoint: string, exchange: string][] = [
    ["the default exchange, whose keys are queues", "exchange:/orders", ""],
    ["an exchange that every broker has", "exchange:amq.topic/a.b", "amq.topic"],
  ];
  for (const [name, endpoint, exchange] of undeclared)
    test(`${name} is not declared`, () =>
      expect(parseLink(`queue:q -> ${endpoint}`)).toMatchObject({
        ...{ type: "forward", queue: "q", ordered: true, jobs: 1, maxTries: 5 },
        target: { exchange: { name: exchange }, declare: false },
      }));

  test("a queue to an exchange, not in order", () => {
    expect(parseLink("queue:q -> exchange:x;ordered=no")).toMatchObject({ ordered: false, jobs: 16 });
    expect(parseLink("queue:q -> exchange:x;ordered=no;jobs=4;max-tries=2")).toMatchObject({ jobs: 4, maxTries: 2 });
  });

  test("an exchange to a channel, with what is usual", () => {
    const link = parseLink("exchange:sip/alert.# -> channel:alerts");
    expect(link).toMatchObject({
      ...{ type: "deliver", node: undefined, require: "any", ordered: false, internal: false, headers: [] },
      source: {
        ...{ exchange: { ...topic, name: "sip" }, routing: "alert.#", queue: undefined, declare: true, ordered: false },
        ...{ jobs: 16, prefetch: 32, maxTries: 5, deadHere: true },
      },
    });
    expect(link.type === "deliver" && link.channel.text).toBe("alerts");
  });

  test("an exchange to a channel, in order: words that say yes by being there", () => {
    const text = "exchange:x -> channel:a;queue=mine;ordered;durable;node=sip:h:1;transport=tcp;internal;dead=broker";
    expect(parseLink(text)).toMatchObject({
      ...{ ordered: true, internal: true, node: { text: "sip:h:1;transport=tcp" } },
      source: { queue: "mine", ordered: true, jobs: 1, prefetch: 1, routing: "#", deadHere: false },
    });
    expect(parseLink("exchange:x -> channel:a;type=direct")).toMatchObject({ source: { routing: "" } });
  });

  test("an exchange to the channel that a message says", () => {
    const textOf = (text: string): string => {
      const link = parseLink(text);
      return link.type === "deliver" ? link.channel.text : "";
    };
    expect(textOf("exchange:x -> channel:*")).toBe("{routing_key.last}");
    expect(textOf("exchange:x -> channel:*;channel={header.x-dmq-channel}")).toBe("{header.x-dmq-channel}");
  });

  test("a queue of the broker into a queue", () => {
    const link = parseLink("amqp-queue:orders -> queue:orders;declare=no;prefetch=500;jobs=50;key={header.x-id}");
    expect(link).toMatchObject({
      ...{ type: "collect", queue: "orders", key: { text: "{header.x-id}" } },
      source: { exchange: undefined, queue: "orders", declare: false, prefetch: 500, jobs: 50 },
    });
    expect(parseLink("exchange:x/k -> queue:q")).toMatchObject({ type: "collect", key: { text: "{routing_key}" } });
  });

  const refused: [name: string, text: string, words: string][] = [
    ["no arrow", "channel:a queue:b", "expected A -> B"],
    ["an endpoint of another version", "stream:x -> queue:b", 'unknown endpoint "stream:x"'],
    ["into a broker's queue", "queue:b -> amqp-queue:x", "a queue stands between"],
    ["two exchanges", "exchange:a -> exchange:b", "a queue stands between"],
    ["an exchange to a command", "exchange:a -> exec:true", "a queue stands between"],
    ["an exchange without a name", "exchange: -> queue:b", "an exchange behind exchange:"],
    ["an exchange of 256 octets", `channel:a -> exchange:${"x".repeat(256)}`, "an exchange behind exchange:"],
    ["an exchange with a line's end", "channel:a -> exchange:x\ny/k", "an exchange behind exchange:"],
    ["a broker's queue without a name", "amqp-queue: -> queue:b", "a queue of the broker behind amqp-queue:"],
    ["a type that there is not", "channel:a -> exchange:x;type=stream", "topic or direct or fanout or headers"],
    ["until= of something else", "channel:a -> exchange:x;until=sent", "stored or confirmed or received"],
    ["an option of the other direction", "channel:a -> exchange:x;prefetch=3", "option prefetch, expected one of"],
    ["a lock where all may take part", "exchange:x -> channel:a;lock=b", "option lock, expected one of"],
    ["a lock that cannot name a queue", "channel:a -> exchange:x;lock=a/b", "at most 39 of"],
    ["a header that SIP could not have", "channel:a -> exchange:x;headers=a,b c", "names of letters"],
    [
      "a channel besides the one named",
      "exchange:x -> channel:a;channel={routing_key}",
      "option channel, expected one of",
    ],
    ["a field of the other direction", "channel:a -> exchange:x/{routing_key}", "text with fields"],
    ["a filter that there is not", "channel:a -> exchange:x/{from.host|dec}", "text with fields"],
    ["a priority out of bounds", "channel:a -> exchange:x;priority=256", "0 to 255"],
    ["no endpoint", "queue:b -> ", 'unknown endpoint ""'],
    ["two channels", "channel:a -> channel:b", "a queue stands between"],
    ["two queues", "queue:a -> queue:b", "a queue stands between"],
    ["a channel to a command", "channel:a -> exec:true", "a queue stands between"],
    ["a name that is no queue's", "channel:a -> queue:..", "a queue's name"],
    ["a name that is no channel's", "channel:a b -> queue:b", "a channel's name"],
    ["an unknown option", "queue:b -> channel:a;requires=all", "require?"],
    ["an option that is none", "queue:b -> channel:a;all", '"all"'],
    ["an option of another kind", "channel:a -> queue:b;require=all", "option require, expected one of"],
    ["an option twice", "queue:b -> channel:a;echo=yes;echo=no", "it twice"],
    ["a value that is none", "queue:b -> channel:a;require=some", "any or all or none"],
    ["a number out of bounds", "queue:b -> exec:true;jobs=0", "1 to 256"],
    ["a name with a comma", "queue:b -> channel:a;name=a,b", "letters, digits"],
    ["a field that there is not", "channel:a -> queue:b;key={form.host}", "text with fields"],
    ["a brace that nothing closes", "channel:a -> queue:b;key={from.host", "text with fields"],
    ["a program that is not there", "queue:b -> exec:/nonexistent/program", "a program that is there"],
    ["a quote that nothing closes", "queue:b -> exec:sh -c 'x", "a command behind exec:"],
  ];
  for (const [name, text, words] of refused)
    test(`refused: ${name}`, () => expect(refusal(() => parseLink(text))).toContain(words));
});

describe("link: several", () => {
  const read = (...texts: string[]): unknown => readLinks(texts, OPEN);

  test("two of one name are refused, until one has another", () => {
    expect(refusal(() => read("queue:a -> exec:true", "queue:a -> exec:false"))).toContain("two of name queue:a>exec");
    expect(read("queue:a -> exec:true", "queue:a -> exec:false;name=second")).toHaveLength(2);
  });

  test("a circle is refused, and named", () => {
    const texts = ["channel:a -> queue:a", "queue:a -> channel:b", "channel:b -> queue:b", "queue:b -> channel:a"];
    expect(refusal(() => read(...texts))).toContain(
      "a circle: channel:a -> queue:a -> channel:b -> queue:b -> channel:a",
    );
    expect(read(...texts.slice(0, 3), `${texts[3]};circle=yes`)).toHaveLength(4);
  });

  test("a circle that is not at the first link's place is found, and a way that meets itself is none", () => {
    const circle = ["channel:a -> queue:b", "queue:b -> channel:c", "channel:c -> queue:b"];
    expect(refusal(() => read(...circle))).toContain("a circle: queue:b -> channel:c -> queue:b");
    expect(read("channel:a -> queue:q", "channel:b -> queue:q", "queue:q -> exec:true")).toHaveLength(3);
  });

  test("both directions over one exchange are no circle: the messages' paths see to that", () => {
    expect(read("channel:a -> exchange:x/k", "exchange:x/k -> channel:a", "queue:q -> exchange:x/k")).toHaveLength(3);
  });

  test("a channel that somebody else answers, and those of Kamailio's modules, are refused", () => {
    const closed = { inbound: new Set(["taken"]), outbound: new Set(["htable"]) };
    expect(refusal(() => readLinks(["channel:taken -> queue:a"], closed))).toContain("channel taken");
    expect(refusal(() => readLinks(["queue:a -> channel:htable"], closed))).toContain("channel htable");
    expect(readLinks(["channel:htable -> queue:a", "queue:a -> exec:true"], closed)).toHaveLength(2);
    expect(refusal(() => readLinks(["channel:taken -> exchange:a"], closed))).toContain("channel taken");
    expect(refusal(() => readLinks(["exchange:a -> channel:htable"], closed))).toContain("or internal=yes");
    expect(
      readLinks(["exchange:a -> channel:htable;internal=yes", "channel:htable -> exchange:a"], closed),
    ).toHaveLength(2);
  });
});

describe("link: templates", () => {
  const facts = {
    channel: "alerts",
    from: "sip:[2001:db8::1]:5070;transport=tcp",
    contentType: "application/json",
    body: new TextEncoder().encode('{"call":{"id":"x"}}'),
    header: (name: string) => (name === "X-Kind" ? "disk" : ""),
    source: { ip: "192.0.2.9", port: 4_711 },
    callId: "abc",
  };
  const cases: [text: string, filled: string][] = [
    ["plain", "plain"],
    ["", ""],
    ["{channel}/{from.host}:{from.port}", "alerts/[2001:db8::1]:5070"],
    ["{src.ip}:{src.port} {call_id} {content_type}", "192.0.2.9:4711 abc application/json"],
    ["{header.X-Kind}{header.X-None}", "disk"],
    ["{json:call.id}{json:call.none}", "x"],
    ["a.{from.host|enc}.{header.X-Kind|enc}", "a.%5B2001%3Adb8%3A%3A1%5D.disk"],
    ["{sha256}", new Bun.CryptoHasher("sha256").update('{"call":{"id":"x"}}').digest("hex")],
  ];
  for (const [text, filled] of cases)
    test(`${text || "nothing"} gives ${filled || "nothing"}`, () =>
      expect(new Template(text, "key", "message").fill(facts)).toBe(filled));

  const delivered = { ...facts, exchange: "sip", routingKey: "alert.disk.full" };
  const deliveries: [text: string, filled: string][] = [
    ["{exchange} {routing_key} {routing_key.last}", "sip alert.disk.full full"],
    ["{routing_key|enc}", "alert%2Edisk%2Efull"],
  ];
  for (const [text, filled] of deliveries)
    test(`of a broker: ${text} gives ${filled}`, () =>
      expect(new Template(text, "key", "delivery").fill(delivered)).toBe(filled));
});
