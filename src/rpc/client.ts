/**
 * The commands' side of the control socket. Each call has a connection of its own: Bun sends a request a second time when
 * a kept-alive connection turns out to be closed, and a message to the bus must not go out twice.
 */
import { lstatSync, type Stats, statSync } from "node:fs";
import { dirname } from "node:path";
import { type ErrorCode, RpcError } from "../core/errors.ts";
import type { Probe } from "./socket-file.ts";
import { REQUEST_BYTES_MAX, STREAM_TYPE } from "./surface.ts";

export interface CallOptions {
  /** Ends the call: it rejects with the signal's reason. The daemon may do what was asked all the same. */
  signal?: AbortSignal;
  /** Gives up with `rpc-unreachable` after that long; without it a call waits as long as the daemon does. */
  timeoutMs?: number;
}

const START_ONE = "start one with: dmq serve";
const OVERFLOW = "overflow";

/**
 * Talks to the daemon on one control socket. Nothing happens before the first call; nothing is to be closed.
 *
 * All failures are an `RpcError`: `rpc-unreachable` (nobody answers, no permission, the daemon went away), `rpc-fault`
 * (it said no: `fault` and `data`), `rpc-protocol` (what answers is no daemon of ours).
 */
export class RpcClient {
  readonly socketPath: string;

  constructor(socketPath: string) {
    this.socketPath = socketPath;
  }

  /** @returns the result of a JSON-RPC method as the daemon gave it, unchecked */
  async call<T>(method: string, params?: unknown, options: CallOptions = {}): Promise<T> {
    const body = JSON.stringify({ jsonrpc: "2.0", method, params, id: 1 });
    if (Buffer.byteLength(body) > REQUEST_BYTES_MAX) throw this.#tooLarge(method);
    const text = await this.#exchange(method, body, options);
    return this.#resultOf(method, text) as T;
  }

  /**
   * Calls a method once for each of `params`, as one batch: they are started in their order and may run at the same time.
   *
   * @param params  at most `BATCH_CALLS_MAX`, at least one
   * @returns       a result or an error for each, in the same order
   * @throws        RpcError where the batch failed as a whole
   */
  async callEach<T>(method: string, params: readonly unknown[], options: CallOptions = {}): Promise<(T | RpcError)[]> {
    const body = JSON.stringify(params.map((one, id) => ({ jsonrpc: "2.0", method, params: one, id })));
    if (Buffer.byteLength(body) > REQUEST_BYTES_MAX) throw this.#tooLarge(method);
    const responses = parseJson(await this.#exchange(method, body, options));
    if (!Array.isArray(responses)) throw this.#notRpc(method);
    const byId = new Map(responses.filter(isObject).map((response) => [response.id, response]));
    return params.map((_, id) => this.#endOf(method, byId.get(id)) as T | RpcError);
  }

  /**
   * Reads an NDJSON stream (`/events`, `/listen?channel=NAME`) line by line. It ends when the daemon closes in good order
   * or `signal` is aborted; it throws when the daemon is gone, or dropped us because we were too slow (`rpc-fault`).
   *
   * @param onOpen  called once nothing is missed any more
   */
  async *stream(path: string, signal?: AbortSignal, onOpen?: () => void): AsyncGenerator<unknown, void, undefined> {
    const aborter = new AbortController();
    const abort = (): void => aborter.abort(signal?.reason);
    signal?.addEventListener("abort", abort, { once: true });
    if (signal?.aborted) abort();
    try {
      const response = await this.#fetch(path, { signal: aborter.signal });
      if (!response.ok) throw this.#refused(path, response.status, await response.text());
      const type = response.headers.get("Content-Type") ?? "no Content-Type";
      if (type !== STREAM_TYPE) throw this.#error("rpc-protocol", path, `${path} is ${type}, expected ${STREAM_TYPE}`);
      onOpen?.();
      yield* this.#lines(path, response);
    } catch (error) {
      if (!signal?.aborted) throw await this.#failure(path, error);
    } finally {
      signal?.removeEventListener("abort", abort);
      // Whoever stops reading unsubscribes, however they left the loop.
      aborter.abort();
    }
  }

  async #exchange(method: string, body: string, { signal, timeoutMs }: CallOptions): Promise<string> {
    const timeout = timeoutMs === undefined ? undefined : AbortSignal.timeout(timeoutMs);
    const signals = [signal, timeout].filter((entry) => entry !== undefined);
    try {
      const headers = { "Content-Type": "application/json" };
      const init = { method: "POST", body, headers, ...(signals.length > 0 && { signal: AbortSignal.any(signals) }) };
      const response = await this.#fetch("/rpc", init);
      if (response.status === 413) throw this.#tooLarge(method);
      const text = await response.text();
      if (!response.ok) throw this.#refused(method, response.status, text);
      return text;
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      if (timeout?.aborted) throw this.#error("rpc-unreachable", method, `no answer to ${method} in ${timeoutMs} ms`);
      throw await this.#failure(method, error);
    }
  }

  #fetch(path: string, init: BunFetchRequestInit): Promise<Response> {
    const foreign = foreignOwner(this.socketPath);
    if (foreign !== undefined) {
      const text = `${this.socketPath} belongs to user ${foreign}, in a directory that everybody can write to`;
      throw this.#error("rpc-unreachable", path, text);
    }
    // The host is a matter of form; Bun's own timeout of five minutes would end a quiet stream.
    return fetch(`http://dmq${path}`, { ...init, unix: this.socketPath, keepalive: false, timeout: false });
  }

  async *#lines(path: string, response: Response): AsyncGenerator<unknown, void, undefined> {
    const decoder = new TextDecoder();
    let pending: string[] = [];
    for await (const chunk of response.body ?? []) {
      const parts = decoder.decode(chunk, { stream: true }).split("\n");
      const tail = parts.pop() as string;
      for (const part of parts) {
        const line = pending.join("") + part;
        pending = [];
        if (line !== "") yield this.#lineOf(path, line);
      }
      if (tail !== "") pending.push(tail);
    }
    if (pending.length > 0) throw this.#error("rpc-protocol", path, `${path} ended in the middle of a line`);
  }

  #lineOf(path: string, line: string): unknown {
    const value = parseJson(line);
    if (value === undefined) throw this.#error("rpc-protocol", path, `${path} gave a line that is not JSON`);
    if (isObject(value) && value.type === OVERFLOW) {
      const message = `${path} was ended by the daemon: it was read too slowly`;
      throw this.#error("rpc-fault", path, message, { fault: 503, data: { exit: 1 } });
    }
    return value;
  }

  #resultOf(method: string, text: string): unknown {
    const end = this.#endOf(method, parseJson(text));
    if (end instanceof RpcError) throw end;
    return end;
  }

  #endOf(method: string, response: unknown): unknown {
    if (!isObject(response) || response.jsonrpc !== "2.0") return this.#notRpc(method);
    if ("result" in response) return response.result;
    return this.#faultOf(method, response.error) ?? this.#notRpc(method);
  }

  #refused(method: string, status: number, text: string): RpcError {
    const response = parseJson(text);
    const fault = isObject(response) ? this.#faultOf(method, response.error) : undefined;
    if (fault !== undefined) return fault;
    const why = text.trim().slice(0, 200);
    const code = status === 503 ? "rpc-fault" : "rpc-protocol";
    return this.#error(code, method, `${method} was answered with HTTP ${status}: ${why}`, { fault: status });
  }

  #faultOf(method: string, error: unknown): RpcError | undefined {
    if (!isObject(error) || typeof error.code !== "number" || typeof error.message !== "string") return undefined;
    return this.#error("rpc-fault", method, error.message, { fault: error.code, data: error.data });
  }

  #notRpc(method: string): RpcError {
    return this.#error("rpc-protocol", method, `what answers on ${this.socketPath} does not speak JSON-RPC 2.0`);
  }

  #tooLarge(method: string): RpcError {
    const message = `${method} is larger than the ${REQUEST_BYTES_MAX} bytes that a daemon reads`;
    return this.#error("rpc-fault", method, message, { fault: 413, data: { exit: 2 } });
  }

  /** Bun has one code for a socket that nobody listens to and for a daemon that died: asking once more tells them apart. */
  async #failure(method: string, cause: unknown): Promise<unknown> {
    if (cause instanceof RpcError) return cause;
    // Only for the words of a failure: a call that succeeds needs nothing of it.
    const { probeSocket } = await import("./socket-file.ts");
    const text = unreachableText(this.socketPath, await probeSocket(this.socketPath));
    return this.#error("rpc-unreachable", method, text, { cause });
  }

  #error(
    code: ErrorCode,
    method: string,
    message: string,
    more: { fault?: number; data?: unknown; cause?: unknown } = {},
  ): RpcError {
    return new RpcError(code, message, { method, socketPath: this.socketPath, ...more });
  }
}

function unreachableText(path: string, probe: Probe): string {
  const found = statQuietly(path);
  if (found?.isSocket() === false && probe !== "denied") {
    const kind = found.isDirectory() ? "a directory" : "another kind of file";
    return `no daemon on ${path}: it is ${kind}; name the control socket with --socket`;
  }
  switch (probe) {
    case "absent":
      return `no daemon on ${path}: there is no such socket; ${START_ONE}`;
    case "refused":
      return `no daemon on ${path}: the one that made this socket is gone; ${START_ONE}`;
    case "denied":
      return `no permission for ${path}: use the account that started the daemon, or name another socket with --socket`;
    case "answers":
      return `the daemon on ${path} closed the connection before it had answered`;
  }
}

/**
 * A socket in a directory that everybody may write to (with the sticky bit, as the system's temporary one) could have been put
 * there by anyone, to read what is sent. Trusted are our own, root's, and those of the directory's owner.
 *
 * @returns the user id that is not to be trusted, if there is one
 */
function foreignOwner(path: string): number | undefined {
  const owner = lstatQuietly(path)?.uid;
  const parent = lstatQuietly(dirname(path));
  if (owner === undefined || parent === undefined || (parent.mode & 0o1002) !== 0o1002) return undefined;
  return [0, parent.uid, process.getuid?.()].includes(owner) ? undefined : owner;
}

function statQuietly(path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch {
    return undefined;
  }
}

function lstatQuietly(path: string): { uid: number; mode: number } | undefined {
  try {
    return lstatSync(path, { throwIfNoEntry: false });
  } catch {
    return undefined;
  }
}

/** `undefined` is no JSON value, so it can stand for text that is none. */
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
