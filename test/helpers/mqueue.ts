/** A Kamailio's JSON-RPC as far as `dmq queue pull` asks it; the name of a queue says what becomes of it. */
interface Asked {
  method: string;
  params: [queue: string];
}

/**
 * `one.NAME` has one item, `two.NAME` two; `empty` none; `missing` is not there; `silent` never answers; `words` answers with none of JSON-RPC.
 */
export class Hub {
  readonly #taken = new Map<string, number>();
  readonly #server = Bun.serve({
    ...{ hostname: "127.0.0.1", port: 0 },
    fetch: async (request) => this.#answer((await request.json()) as Asked),
  });

  get url(): string {
    return `http://127.0.0.1:${this.#server.port}/RPC`;
  }

  #answer({ method, params: [queue] }: Asked): Response | Promise<Response> {
    if (queue === "silent") return new Promise<Response>(() => undefined);
    if (queue === "words") return new Response("welcome");
    if (queue === "missing") return said({ error: { code: 404, message: "No such mqueue" } });
    if (method === "mqueue.get_size") return said({ result: { size: 1 } });
    const taken = this.#taken.get(queue) ?? 0;
    const items = queue.startsWith("two.") ? 2 : 1;
    if (queue === "empty" || taken >= items) return said({ error: { code: 404, message: "Empty queue" } });
    this.#taken.set(queue, taken + 1);
    return said({ result: { key: "key", val: "val" } });
  }

  end(): void {
    void this.#server.stop(true);
  }
}

function said(answer: object): Response {
  return Response.json({ jsonrpc: "2.0", id: 1, ...answer });
}
