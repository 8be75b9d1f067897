/** From where datagrams leave a socket at all addresses. Goal: who would not be believed is told so, and nobody else. */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { warnOfSource } from "../../src/daemon/sources.ts";
import { namespaceProblem } from "../helpers/namespaces.ts";
import { describeWhere } from "../helpers/needs.ts";

async function warned(
  serverAddress: string,
  serverSockets: string[],
  ...notificationAddresses: string[]
): Promise<string[]> {
  const warnings: string[] = [];
  const [warn, none] = [(text: string) => warnings.push(text), () => undefined];
  const log = { error: warn, warn, info: none, debug: none, trace: none };
  await warnOfSource({ serverAddress, serverSockets, notificationAddresses }, log);
  return warnings;
}

describe("sources", () => {
  test("sources: the kernel's choice is another address than ours", async () => {
    const [warning, ...more] = await warned(
      "sip:127.0.0.2:5060",
      ["udp:0.0.0.0:5062"],
      "sip:127.0.0.9",
      "sip:127.0.0.8",
    );
    expect(more).toEqual([]);
    expect(warning).toContain(
      "udp:0.0.0.0:5062 sends to 127.0.0.9 from 127.0.0.1, not from server_address sip:127.0.0.2:5060",
    );
    expect(warning).toEndWith("name server_socket udp:127.0.0.2:5062 instead");
    expect(await warned("sip:127.0.0.2", ["udp:[::]:5062"], "sip:127.0.0.9")).toHaveLength(1);
  });

  const fine: [what: string, address: string, sockets: string[], notification: string[]][] = [
    ["it is ours", "sip:127.0.0.1", ["udp:0.0.0.0:5060"], ["sip:127.0.0.9"]],
    ["the socket has our address", "sip:127.0.0.2", ["udp:127.0.0.2:5060"], ["sip:127.0.0.9"]],
    ["there is no socket but our own", "sip:127.0.0.2", [], ["sip:127.0.0.9"]],
    ["connections have the address that they were made to", "sip:127.0.0.2;transport=tcp", ["tcp:0.0.0.0:5060"], []],
    ["our address is that of a NAT", "sip:203.0.113.7", ["udp:0.0.0.0:5060"], ["sip:127.0.0.9"]],
    ["nobody is known", "sip:127.0.0.2", ["udp:0.0.0.0:5060"], []],
    ["a name is no address yet", "sip:127.0.0.2", ["udp:0.0.0.0:5060"], ["sip:bus.example"]],
    ["another family", "sip:127.0.0.2", ["udp:0.0.0.0:5060"], ["sip:[::1]"]],
    ["there is no way there", "sip:127.0.0.2", ["udp:0.0.0.0:5060"], ["sip:255.255.255.255"]],
  ];
  test.each(fine)("sources: no warning where %s", async (_what, address, sockets, notification) => {
    expect(await warned(address, sockets, ...notification)).toEqual([]);
  });
});

describeWhere(namespaceProblem(), "sources: a machine with two addresses in one network", () => {
  /** What `dmq config check` says there. */
  function checked(own: string): string {
    const setup = [
      ...[
        "ip link add w0 type veth peer name w1",
        "ip address add 10.77.0.9/24 dev w0",
        "ip address add 10.77.0.100/24 dev w0",
      ],
      ...["ip -6 address add fd77::9/64 dev w0 nodad", "ip link set w0 up", "ip link set w1 up"],
    ];
    const command = `${process.execPath} ${join(import.meta.dir, "../../bin/dmq.ts")} config check --server-address sip:${own}:5090`;
    const script = [...setup, `exec ${command} --server-socket udp:0.0.0.0:5090 --allow any`].join(" && ");
    const done = Bun.spawnSync(["unshare", "-n", "sh", "-c", script], { env: { PATH: process.env.PATH ?? "" } });
    expect(done.exitCode).toBe(0);
    return done.stderr.toString();
  }

  test("sources: the second one is told, by its neighbours alone", () => {
    expect(checked("10.77.0.9")).toBe("");
    expect(checked("10.77.0.100")).toContain("from 10.77.0.9, not from server_address sip:10.77.0.100:5090");
  });
});
