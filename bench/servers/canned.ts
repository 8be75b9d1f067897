/**
 * The limit of Bun: every datagram is answered with canned octets around a span of the request that is found once, as
 * c/echo.c does it; the answers of one wake-up leave in one `sendMany`.
 *
 *   canned IP PORT
 */
const [ip = "127.0.0.1", port = "0"] = process.argv.slice(2);

const HEAD = Buffer.from("SIP/2.0 200 OK\r\n");
const TAIL = Buffer.from("Content-Length: 0\r\n\r\n");

/** Memory for the answers of one wake-up. */
const SLAB = Buffer.alloc(1 << 20);

let size = 0;
let start = 0;
let end = 0;
let used = 0;
let queue: (Buffer | number | string)[] = [];

function learn(request: Buffer): void {
  size = request.length;
  start = request.indexOf("Via:");
  end = request.indexOf("Content-Length:");
}

function answer(request: Buffer): Buffer {
  if (request.length !== size) learn(request);
  const from = used;
  HEAD.copy(SLAB, used);
  request.copy(SLAB, used + HEAD.length, start, end);
  used += HEAD.length + end - start;
  TAIL.copy(SLAB, used);
  used += TAIL.length;
  return SLAB.subarray(from, used);
}

async function main(): Promise<void> {
  const flush = (): void => {
    socket.sendMany(queue);
    queue = [];
    used = 0;
  };
  const socket = await Bun.udpSocket({
    hostname: ip,
    port: Number(port),
    binaryType: "buffer",
    socket: {
      data(_, request, fromPort, fromIp) {
        if (queue.length === 0) setImmediate(flush);
        queue.push(answer(request), fromPort, fromIp);
      },
      error: () => undefined,
    },
  });
  console.log("ready");
}

main();
