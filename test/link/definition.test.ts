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

  const refused: [name: string, text: string, words: string][] = [
    ["no arrow", "channel:a queue:b", "expected A -> B"],
    ["an endpoint of another version", "exchange:x -> queue:b", 'unknown endpoint "exchange:x"'],
    ["an amqp queue", "queue:b -> amqp-queue:x", 'unknown endpoint "amqp-queue:x"'],
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

  test("a channel that somebody else answers, and those of Kamailio's modules, are refused", () => {
    const closed = { inbound: new Set(["taken"]), outbound: new Set(["htable"]) };
    expect(refusal(() => readLinks(["channel:taken -> queue:a"], closed))).toContain("channel taken");
    expect(refusal(() => readLinks(["queue:a -> channel:htable"], closed))).toContain("channel htable");
    expect(readLinks(["channel:htable -> queue:a", "queue:a -> exec:true"], closed)).toHaveLength(2);
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
    ["{sha256}", new Bun.CryptoHasher("sha256").update('{"call":{"id":"x"}}').digest("hex")],
  ];
  for (const [text, filled] of cases)
    test(`${text || "nothing"} gives ${filled || "nothing"}`, () =>
      expect(new Template(text, "key", "message").fill(facts)).toBe(filled));
});
