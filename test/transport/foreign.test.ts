/**
 * Goal: another SIP stack understands what the transports carry, and they carry what it says. Method: the `sip` package,
 * with its own sockets, parser and transactions, is the user agent on the other side; ours are raw octets.
 */
import { afterEach, describe, expect, test } from "bun:test";
import type { Endpoint, Transport } from "../../src/core/endpoint.ts";
import { openStreams } from "../../src/transport/stream.ts";
import { openUdp } from "../../src/transport/udp.ts";
import { Recorder, until } from "./recorder.ts";

/** The part of the package's message that is looked at here; it has no types of its own. */
interface SipMessage {
  method?: string;
  uri?: string;
  status?: number;
  reason?: string;
  headers: Record<string, unknown>;
  content?: string;
}

interface SipStack {
  send(message: SipMessage, callback?: (response: SipMessage) => void): void;
  destroy(): void;
}

interface SipModule {
  create(
    options: object,
    onRequest: (request: SipMessage, remote: { address: string; port: number }) => void,
  ): SipStack;
  makeResponse(request: SipMessage, status: number, reason: string): SipMessage;
}

const sip = require("sip") as SipModule;
const cleanups: (() => void)[] = [];

afterEach(() => {
  for (const cleanup of cleanups.splice(0)) cleanup();
});

interface Ours {
  sink: Recorder;
  endpoint: Endpoint;
  send(to: Endpoint, flow: number | undefined, bytes: Uint8Array): void;
}

async function ours(transport: Transport, ip = "127.0.0.1", port = 0): Promise<Ours> {
  const sink = new Recorder();
  if (transport === "udp") {
    const udp = await openUdp({ ip, port }, sink);
    cleanups.push(() => udp.close());
    const endpoint: Endpoint = { transport, ip, port: udp.listener.port };
    return { sink, endpoint, send: (to, _flow, bytes) => udp.send(to, bytes) };
  }
  const streams = await openStreams({ ip, port }, sink);
  cleanups.push(() => streams.shutdown());
  const endpoint: Endpoint = { transport, ip, port: streams.listener.port };
  return { sink, endpoint, send: (to, flow, bytes) => streams.send(to, flow, bytes) };
}

/** The package takes an address that is its own for a flow of its own: it and our node need different ones. */
const FOREIGN_IP = "127.0.0.2";

/** Binds and lets go again. @returns the port, or `undefined` if it is taken */
async function probe(transport: Transport, port: number): Promise<number | undefined> {
  const node = await ours(transport, FOREIGN_IP, port).catch(() => undefined);
  if (node !== undefined) cleanups.pop()?.();
  return node?.endpoint.port;
}

async function foreign(
  transport: Transport,
  onRequest: (request: SipMessage, stack: SipStack) => void,
): Promise<{ stack: SipStack; endpoint: Endpoint }> {
  // It takes port 0 for 5060: a port that was free a moment ago has to do.
  const port = (await probe(transport, 0)) as number;
  const options = { address: FOREIGN_IP, port, udp: transport === "udp", tcp: transport === "tcp" };
  const stack: SipStack = sip.create(options, (request) => onRequest(request, stack));
  cleanups.push(() => stack.destroy());
  // Its socket is bound at some time after it returned; from then on nobody else can bind there.
  await Bun.sleep(0);
  for (let attempt = 0; attempt < 500 && (await probe(transport, port)) !== undefined; attempt++) await Bun.sleep(2);
  return { stack, endpoint: { transport, ip: FOREIGN_IP, port } };
}

function kdmq(from: Endpoint, to: Endpoint, body: string): Uint8Array {
  const lines = [
    `KDMQ sip:chat@${to.ip}:${to.port} SIP/2.0`,
    `Via: SIP/2.0/${to.transport.toUpperCase()} ${from.ip}:${from.port};branch=z9hG4bK5f1d.1`,
    `From: <sip:chat@${from.ip}:${from.port}>;tag=a1`,
    `To: <sip:chat@${to.ip}:${to.port}>`,
    "Call-ID: foreign-1",
    "CSeq: 10 KDMQ",
    "Max-Forwards: 1",
    "Content-Type: text/plain",
    `Content-Length: ${body.length}`,
  ];
  return Buffer.from(`${lines.join("\r\n")}\r\n\r\n${body}`);
}

/** The 200 to a request as it stands in `request`, with the headers that must be copied (RFC 3261 §8.2.6.2). */
function okTo(request: string): Uint8Array {
  const copied = request.split("\r\n").filter((line) => /^(via|from|to|call-id|cseq):/i.test(line));
  return Buffer.from(`SIP/2.0 200 OK\r\n${copied.join("\r\n")}\r\nContent-Length: 0\r\n\r\n`);
}

describe("a foreign stack", () => {
  for (const transport of ["udp", "tcp"] as const) {
    test(`foreign: our KDMQ over ${transport} is read and answered by another stack`, async () => {
      const requests: SipMessage[] = [];
      const { endpoint } = await foreign(transport, (request, stack) => {
        requests.push(request);
        stack.send(sip.makeResponse(request, 202, "Nobody took it"));
      });
      const node = await ours(transport);
      const body = "one\r\ntwo\0three";
      node.send(endpoint, undefined, kdmq(node.endpoint, endpoint, body));
      await until("the answer", () => node.sink.octets().includes("\r\n\r\n"));
      expect(requests.map((request) => [request.method, request.content])).toEqual([["KDMQ", body]]);
      const answer = node.sink.octets().toString();
      expect(answer).toStartWith("SIP/2.0 202 Nobody took it\r\n");
      expect(answer).toContain("branch=z9hG4bK5f1d.1");
      expect(node.sink.arrivals[0]!.from).toEqual(endpoint);
    });

    test(`foreign: the OPTIONS of another stack over ${transport} arrives, and it takes our answer`, async () => {
      const { stack } = await foreign(transport, () => {});
      const node = await ours(transport);
      node.sink.onReceived = ({ from, flow, bytes }) => node.send(from, flow, okTo(Buffer.from(bytes).toString()));
      const responses: SipMessage[] = [];
      const uri = `sip:127.0.0.1:${node.endpoint.port};transport=${transport}`;
      const headers = {
        to: { uri },
        from: { uri: "sip:foreign@127.0.0.1", params: { tag: "f1" } },
        "call-id": "foreign-2",
        cseq: { method: "OPTIONS", seq: 7 },
        via: [],
      };
      stack.send({ method: "OPTIONS", uri, headers }, (response) => responses.push(response));
      await until("its response", () => responses.length === 1);
      expect([responses[0]!.status, responses[0]!.reason]).toEqual([200, "OK"]);
      expect(node.sink.octets().toString()).toStartWith(`OPTIONS ${uri} SIP/2.0\r\n`);
      expect(node.sink.losses).toEqual([]);
    });
  }
});
