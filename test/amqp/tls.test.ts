// needs programs: rabbitmq-server
/** TLS to a real broker: what is accepted, and each wrong kind of certificate refused with words that say which (B12 13). */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { AmqpClient } from "../../src/amqp/client.ts";
import type { AmqpTls } from "../../src/amqp/connection.ts";
import type { AmqpError } from "../../src/amqp/error.ts";
import { parseBrokers } from "../../src/amqp/url.ts";
import { Certificates } from "../helpers/certificates.ts";
import { BROKER_START_MS, type Brokers, describeBroker, startBrokers } from "../helpers/rabbitmq.ts";

const WAIT_MS = 10_000;

/** @returns the error's code and text, or "ok" after a confirmed message */
async function attempt(url: string, tls: AmqpTls): Promise<[code: string, text: string]> {
  const client = new AmqpClient({ brokers: parseBrokers([url]), tls });
  client.start();
  try {
    await client.ready(WAIT_MS);
    await client.publish({ exchange: "", routingKey: "none", body: new Uint8Array(1), mandatory: false });
    return ["ok", ""];
  } catch (error) {
    return [(error as AmqpError).code, (error as AmqpError).message];
  } finally {
    await client.close();
  }
}

describeBroker("TLS", () => {
  let brokers: Brokers;
  let tls: Brokers["tls"];

  beforeAll(async () => {
    brokers = await startBrokers({ tls: true });
    tls = brokers.tls;
  }, BROKER_START_MS);

  afterAll(async () => {
    await brokers?.down();
  }, BROKER_START_MS);

  test("the right authority, by name and by address, with a client certificate or without", async () => {
    const { ca, cert, key } = tls;
    expect(await attempt(brokers.tlsUrl(), { ca })).toEqual(["ok", ""]);
    expect(await attempt(brokers.tlsUrl().replace("localhost", "127.0.0.1"), { ca })).toEqual(["ok", ""]);
    expect(await attempt(brokers.tlsUrl(), { ca, cert, key })).toEqual(["ok", ""]);
  });

  test("an authority that we do not know is refused, and with insecure it is not looked at", async () => {
    const [code, text] = await attempt(brokers.tlsUrl(), {});
    expect(code).toBe("amqp-login");
    expect(text).toContain("certificate");
    expect(await attempt(brokers.tlsUrl(), { insecure: true })).toEqual(["ok", ""]);
  });

  test("a certificate for another name is refused, as is one for the host where another name is wanted", async () => {
    const [code, text] = await attempt(brokers.tlsUrl(), { ca: tls.ca, servername: "broker.example" });
    expect(code).toBe("amqp-login");
    expect(text).toContain("broker.example");
  });

  test("the certificate is the login: EXTERNAL", async () => {
    const url = `${brokers.tlsUrl().replace("guest:guest@", "")}?auth=external`;
    const { ca, cert, key } = tls;
    expect(await attempt(url, { ca, cert, key })).toEqual(["ok", ""]);
    expect((await attempt(url, { ca }))[0]).toBe("amqp-login");
  });

  test("plain AMQP at a TLS port, and TLS at a plain one, are not reached", async () => {
    const plain = brokers.tlsUrl().replace("amqps:", "amqp:");
    const secure = brokers.url().replace("amqp:", "amqps:");
    for (const url of [plain, secure]) {
      const client = new AmqpClient({ brokers: parseBrokers([url]), tls: { ca: tls.ca } });
      client.start();
      await expect(client.ready(1_000)).rejects.toMatchObject({ code: "amqp-unreachable" });
      await client.close();
    }
  });
});

describe("certificates that no broker here has", () => {
  const certificates = new Certificates();
  afterAll(() => certificates.remove());

  /** Nothing but the handshake: what is wrong shows before the first frame. */
  async function refusal(names: string, times: { from?: number; to?: number }): Promise<[string, string]> {
    const authority = certificates.authority(`ca${times.to ?? 0}`);
    const { cert, key } = certificates.issue(authority, names, times);
    const server = Bun.listen({
      ...{ hostname: "127.0.0.1", port: 0, tls: { cert: Bun.file(cert), key: Bun.file(key) } },
      socket: { data: () => undefined },
    });
    try {
      return await attempt(`amqps://127.0.0.1:${server.port}`, { ca: await Bun.file(authority.cert).text() });
    } finally {
      server.stop(true);
    }
  }

  test("an expired one is refused", async () => {
    const [code, text] = await refusal("IP:127.0.0.1", { from: -20, to: -10 });
    expect(code).toBe("amqp-login");
    expect(text).toContain("expired");
  });

  test("one that is not valid yet is refused", async () => {
    const [code, text] = await refusal("IP:127.0.0.1", { from: 10, to: 20 });
    expect(code).toBe("amqp-login");
    expect(text).toContain("not yet valid");
  });

  test("one for another address is refused", async () => {
    const [code, text] = await refusal("IP:127.0.0.9,DNS:elsewhere.example", {});
    expect(code).toBe("amqp-login");
    expect(text).toContain("127.0.0.1");
  });
});
