import { describe, expect, test } from "bun:test";
import { OctetStore } from "../../src/core/octet-store.ts";
import { below, seededRandom } from "../../src/core/random.ts";

function put(store: OctetStore, length: number, fill: number): number {
  const start = store.reserve(length);
  store.octets.fill(fill, start, start + length);
  return store.commit(start + length);
}

describe("octet store", () => {
  test("store: what is kept stays as it is, however much comes and goes around it", () => {
    const random = seededRandom(11);
    const store = new OctetStore();
    const kept: { place: number; length: number; fill: number }[] = [];
    for (let step = 0; step < 20_000; step++) {
      const length = 1 + below(random, step % 97 === 0 ? 300_000 : 2_000);
      const fill = step & 255;
      kept.push({ place: put(store, length, fill), length, fill });
      // About equally long, in about the order of arrival.
      while (kept.length > 300) {
        const [gone] = kept.splice(below(random, 10), 1);
        store.release((gone as { place: number }).place);
      }
      const one = kept[below(random, kept.length)] as { place: number; length: number; fill: number };
      const octets = store.view(one.place, one.length);
      expect([octets.length, octets[0], octets.at(-1)]).toEqual([one.length, one.fill, one.fill]);
    }
  });

  test("store: memory is used again once nobody keeps anything in it", () => {
    const store = new OctetStore();
    const seen = new Set<Uint8Array>();
    for (let step = 0; step < 100_000; step++) {
      const place = put(store, 1_000, 1);
      seen.add(store.octets);
      store.release(place);
    }
    expect(seen.size).toBeLessThanOrEqual(2);
  });

  test("store: something larger than a piece has one of its own, which is given back", () => {
    const store = new OctetStore();
    const small = put(store, 10, 1);
    const large = put(store, 1_000_000, 2);
    expect(store.view(large, 1_000_000).every((octet) => octet === 2)).toBe(true);
    put(store, 10, 3);
    store.release(large);
    expect(store.view(large, 1_000_000).length).toBe(0);
    expect([...store.view(small, 10)]).toEqual(new Array(10).fill(1));
  });

  test("store: what was released cannot be released again", () => {
    const store = new OctetStore();
    const place = put(store, 10, 1);
    store.release(place);
    expect(() => store.release(place)).toThrow("what is released was kept");
  });
});
