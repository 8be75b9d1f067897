/** What the control surface of a running node refuses, and in which words. */
import { afterEach, describe, expect, test } from "bun:test";
import { Control } from "../../src/daemon/control.ts";
import { createNode, type RunningNode } from "../../src/daemon/driver.ts";
import { Journal } from "../../src/daemon/journal.ts";
import { RpcFault } from "../../src/rpc/surface.ts";

let node: RunningNode | undefined;

afterEach(async () => {
  await node?.close({ announce: false });
});

async function control(notificationChannel: string): Promise<Control> {
  const fresh = await createNode({ serverAddress: "sip:127.0.0.1:0", notificationChannel });
  node = fresh;
  return new Control({
    node: fresh,
    notificationChannel,
    handlerTimeoutMs: 1_500,
    journal: new Journal({ level: "info" }),
    socketPath: "",
    stateDir: undefined,
    reload: async () => ({ changed: [], needs_restart: [] }),
    end: (how) => fresh.close(how),
  });
}

describe("control", () => {
  for (const channel of ["peers", "notification_peer", "htable"])
    test(`control: a message on ${channel} is refused unless it is forced`, async () => {
      const surface = await control("peers");
      const message = { channel, body: new Uint8Array(2), contentType: "text/plain", except: [] };
      const fault = await surface.broadcast(message).catch((cause: unknown) => cause);
      expect(fault).toBeInstanceOf(RpcFault);
      expect(fault).toMatchObject({ code: 403, data: { exit: 2 } });
      expect(await surface.broadcast({ ...message, force: true })).toEqual([]);
    });

  test("control: the local node stands last in the list, and cannot be removed or changed", async () => {
    const surface = await control("peers");
    const uri = node?.uri() ?? "";
    surface.add("sip:127.0.0.9:9");
    expect(surface.listNodes().map(({ local }) => local)).toEqual([0, 1]);
    expect(() => surface.add(uri)).toThrow("Node is already added");
    expect(() => surface.remove(uri)).toThrow("Node is local");
    expect(() => surface.changeStatus(uri, "disabled")).toThrow("Node is local");
    expect(() => surface.changeStatus("sip:127.0.0.8:9", "disabled")).toThrow("Node Not Found");
    expect(() => surface.remove("nonsense")).toThrow("Failure");
  });
});
