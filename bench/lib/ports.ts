/** Addresses for servers of a benchmark: loopback only, on ports that are free now. */

export interface Address {
  readonly ip: string;
  readonly port: number;
  /** `IP:PORT` */
  readonly text: string;
}

/** A port of this address that is free for UDP and TCP alike. */
export async function freeAddress(ip = "127.0.0.1"): Promise<Address> {
  for (let attempt = 0; attempt < 20; attempt++) {
    const datagrams = await Bun.udpSocket({ hostname: ip, port: 0 });
    const { port } = datagrams;
    try {
      Bun.listen({ hostname: ip, port, socket: { data: () => undefined } }).stop(true);
      return { ip, port, text: `${ip}:${port}` };
    } catch {
      // Somebody has it for TCP.
    } finally {
      datagrams.close();
    }
  }
  throw new Error(`no port of ${ip} is free for both UDP and TCP`);
}

/** Sends one datagram and waits for one back. @throws Error after `ms` */
export async function exchange(to: Address, request: (own: Address) => string, ms = 2_000): Promise<string> {
  const answered = Promise.withResolvers<string>();
  const socket = await Bun.udpSocket({
    hostname: to.ip,
    socket: { data: (_, data) => answered.resolve(data.toString()), error: () => undefined },
  });
  const own = { ip: to.ip, port: socket.port, text: `${to.ip}:${socket.port}` };
  const timer = setTimeout(() => answered.reject(new Error(`no answer from ${to.text} in ${ms} ms`)), ms);
  try {
    socket.send(request(own), to.port, to.ip);
    return await answered.promise;
  } finally {
    clearTimeout(timer);
    socket.close();
  }
}
