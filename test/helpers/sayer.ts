/** A node that says what a test wants: one code to pings, another to everything else. It knows nobody and asks nothing. */

const PING = /^KDMQ sip:notification_peer@/;
const REPEATED = /^(?:via|v|from|f|call-id|i|cseq):/i;

export class Sayer {
  readonly uri: string;
  /** Nobody is there any more, and whoever asks is told so. */
  readonly close: () => void;

  constructor(uri: string, close: () => void) {
    this.uri = uri;
    this.close = close;
  }

  /** @param codes  with their reason phrase, `603 Decline`; `undefined` is silence */
  static async listen(codes: Codes): Promise<Sayer> {
    const socket = await Bun.udpSocket({
      hostname: "127.0.0.1",
      port: 0,
      socket: {
        data: (self, octets, port, address) => {
          const answer = answerOf(octets, codes);
          if (answer !== undefined) self.send(answer, port, address);
        },
        error: () => undefined,
      },
    });
    return new Sayer(`sip:127.0.0.1:${socket.port}`, () => socket.close());
  }

  /** Over TCP, where a node that is gone is known to be. A request comes in one piece here. */
  static listenTcp(codes: Codes): Sayer {
    const server = Bun.listen({
      hostname: "127.0.0.1",
      port: 0,
      socket: { data: (self, octets) => void self.write(answerOf(octets, codes) ?? "") },
    });
    return new Sayer(`sip:127.0.0.1:${server.port};transport=tcp`, () => server.stop(true));
  }
}

interface Codes {
  ping: string | undefined;
  other: string | undefined;
}

function answerOf(octets: Buffer, codes: Codes): string | undefined {
  const request = octets.toString("latin1");
  const code = PING.test(request) ? codes.ping : codes.other;
  return code === undefined ? undefined : answerTo(request, code);
}

function answerTo(request: string, code: string): string {
  const lines = request.slice(0, request.indexOf("\r\n\r\n")).split("\r\n");
  const repeated = lines.filter((line) => REPEATED.test(line));
  const to = lines.find((line) => /^(?:to|t):/i.test(line));
  return [`SIP/2.0 ${code}`, ...repeated, `${to};tag=sayer`, "Content-Length: 0", "", ""].join("\r\n");
}
