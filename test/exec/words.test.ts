import { describe, expect, test } from "bun:test";
import { UsageError } from "../../src/core/errors.ts";
import { splitWords } from "../../src/exec/words.ts";

describe("words", () => {
  const good: [what: string, command: string, words: string[]][] = [
    ["one word", "true", ["true"]],
    ["white space of all kinds", " \t a\tb \n c\r\n", ["a", "b", "c"]],
    ["single quotes keep everything", `a 'b "c\\ $d' e`, ["a", 'b "c\\ $d', "e"]],
    ["double quotes keep white space", `a "b 'c' d"`, ["a", "b 'c' d"]],
    ["a backslash in double quotes escapes what a shell lets it", '"\\" \\\\ \\$ \\` \\n"', ['" \\ $ ` \\n']],
    ["a backslash outside quotes takes the next character", "a\\ b \\' \\\\", ["a b", "'", "\\"]],
    ["quotes join what touches them", `a'b'"c"d`, ["abcd"]],
    ["empty words", `a '' ""`, ["a", "", ""]],
    [
      "nothing is expanded",
      "echo $HOME `id` $(id) * ? ~ {a,b} | > & ; #x",
      [...["echo", "$HOME", "`id`", "$(id)", "*", "?", "~", "{a,b}", "|", ">", "&", ";", "#x"]],
    ],
    ["a shell is a word like any other", `sh -c 'echo "$1" | wc -c' x`, ["sh", "-c", 'echo "$1" | wc -c', "x"]],
    ["letters of all scripts", "grüße 世界", ["grüße", "世界"]],
  ];
  for (const [what, command, words] of good) test(what, () => expect(splitWords(command)).toEqual(words as [string]));

  const bad: [what: string, command: string, says: string][] = [
    ["nothing", "", "names no program"],
    ["white space alone", " \t\n", "names no program"],
    ["an empty program", "'' x", "names no program"],
    ["an open single quote", "sh -c 'x", "the quote ' at character 7"],
    ["an open double quote", 'a "b\\"', 'the quote " at character 3'],
    ["a backslash at the end", "a \\", "backslash"],
    ["a NUL", "a\0b", "NUL"],
  ];
  for (const [what, command, says] of bad) {
    test(`${what} is refused`, () => {
      expect(() => splitWords(command)).toThrow(UsageError);
      expect(() => splitWords(command)).toThrow(says);
    });
  }
});
