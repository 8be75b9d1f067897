import { describe, expect, test } from "bun:test";
import { ProgressLine, progressText } from "../../src/cli/progress.ts";

describe("progress", () => {
  test("says done, rate and failed", () => {
    expect(progressText({ done: 0, failed: 0, seconds: 0 })).toBe("0 done, 0/s, 0 failed");
    expect(progressText({ done: 1_501, failed: 3, seconds: 2 })).toBe("1501 done, 751/s, 3 failed");
  });

  test("is one line, written again where it stood, and only if it says something else", () => {
    let written = "";
    const line = new ProgressLine((text) => {
      written += text;
    });
    line.clear();
    line.show("a");
    line.show("a");
    line.show("bc");
    line.clear();
    line.clear();
    expect(written).toBe("\r\u001b[Ka\r\u001b[Kbc\r\u001b[K");
    line.show("bc");
    line.end();
    expect(written).toEndWith("\r\u001b[Kbc\r\u001b[K");
  });
});
