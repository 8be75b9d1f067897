/** A Kamailio that runs mqueue and answers JSON-RPC over HTTP, drained into a queue of ours. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { dmq } from "../helpers/daemon.ts";
import { labProblem } from "../helpers/kamailio.ts";
import { describeWhere } from "../helpers/needs.ts";
import type { Finished } from "../helpers/process.ts";
import { until } from "../helpers/wait.ts";

const PORT = 5967;
const RPC = `http://127.0.0.67:${PORT}/RPC`;

function problem(): string | undefined {
  const lab = labProblem();
  if (lab !== undefined) return lab;
  const missing = ["mqueue", "xhttp", "jsonrpcs"].filter(
    (name) => [...new Bun.Glob(`**/kamailio/modules/${name}.so`).scanSync({ cwd: "/usr/lib" })].length === 0,
  );
  return missing.length === 0 ? undefined : `Kamailio's modules are not installed: ${missing.join(", ")}`;
}

/** Requests to /add put X-Key and X-Value into the queue, empty ones too. */
const CONFIG = `#!KAMAILIO
listen=tcp:127.0.0.67:${PORT}
disable_core_dump=yes
tcp_accept_no_cl=yes
children=1
tcp_children=1
loadmodule "sl"
loadmodule "pv"
loadmodule "xhttp"
loadmodule "jsonrpcs"
loadmodule "mqueue"
modparam("mqueue", "mqueue", "name=kamalert")
modparam("jsonrpcs", "transport", 1)
request_route { exit; }
event_route[xhttp:request] {
  if ($hu =~ "^/RPC") { jsonrpc_dispatch(); exit; }
  mq_add("kamalert", "$hdr(X-Key)", "$hdr(X-Value)");
  xhttp_reply("200", "OK", "text/plain", "");
}
`;

describeWhere(problem(), "pull", () => {
  let dir: string;
  let env: Record<string, string>;
  let kamailio: Bun.Subprocess;
  let log = "";

  const q = (...words: string[]): Promise<Finished> => dmq(["queue", ...words], { env });

  async function put(key: string, value: string): Promise<void> {
    const headers = { "X-Key": key, "X-Value": value, Connection: "close" };
    const answer = await fetch(`http://127.0.0.67:${PORT}/add`, { headers });
    expect(answer.status).toBe(200);
  }

  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), "pu-"));
    env = { DMQ_STATE_DIR: join(dir, "state"), DMQ_SOCKET: join(dir, "none.sock") };
    writeFileSync(join(dir, "kamailio.cfg"), CONFIG);
    const where = ["-f", join(dir, "kamailio.cfg"), "-Y", dir, "-w", dir, "-P", join(dir, "pid")];
    const child = Bun.spawn(["kamailio", "-DD", "-E", ...where, "-m", "64", "-M", "8"], {
      stdout: "ignore",
      stderr: "pipe",
    });
    kamailio = child;
    void (async () => {
      for await (const chunk of child.stderr) log += new TextDecoder().decode(chunk);
    })();
    const answers = async (): Promise<boolean> => (await q("pull", "none", "--from", RPC)).code === 3;
    await until(answers, 5_000, "dmq says that there is no queue");
    const isUp = async (): Promise<boolean> =>
      (await fetch(`http://127.0.0.67:${PORT}/RPC`, { method: "POST", body: "{}" })).status > 0;
    await until(isUp, 15_000, `Kamailio is up: ${log}`).catch((cause) => {
      throw new Error(`${cause}; ${log}`);
    });
    expect((await q("define", "alert")).code).toBe(0);
  }, 60_000);

  afterAll(async () => {
    kamailio?.kill("SIGTERM");
    await kamailio?.exited;
    if (dir !== undefined) rmSync(dir, { recursive: true, force: true });
  }, 30_000);

  test("all of its items come, in order; then it is empty, which is exit 1", async () => {
    for (const n of [1, 2, 3, 4]) await put(`192.0.2.${n}:5060`, `pike ${n}`);
    const some = await q("pull", "alert", "--from", RPC, "--queue", "kamalert", "-n", "3");
    expect([some.code, some.stdout, some.stderr]).toEqual([0, "3\n", ""]);
    const rest = await q("pull", "alert", "--from", RPC, "--queue", "kamalert");
    expect([rest.code, rest.stdout, rest.stderr]).toEqual([0, "1\n", ""]);
    expect((await q("fetch", "alert", "--all")).stdout).toBe(
      [1, 2, 3, 4].map((n) => `192.0.2.${n}:5060\tpike ${n}\n`).join(""),
    );
    expect((await q("pull", "alert", "--from", RPC, "--queue", "kamalert")).code).toBe(1);
  }, 60_000);

  test("a queue that this Kamailio does not have is exit 3, and nobody there exit 4", async () => {
    expect((await q("pull", "alert", "--from", RPC)).code).toBe(3);
    expect((await q("pull", "alert", "--from", "http://127.0.0.67:9/RPC")).code).toBe(4);
  }, 60_000);

  test("what does not fit here is printed, because it is nowhere else any more", async () => {
    expect((await q("define", "small", "--size", "1", "--full", "reject")).code).toBe(0);
    await q("add", "small", "k", "v");
    await put("a", "b");
    const full = await q("pull", "small", "--from", RPC, "--queue", "kamalert");
    expect([full.code, full.stdout]).toEqual([5, "a\tb\n"]);
  }, 60_000);
});
