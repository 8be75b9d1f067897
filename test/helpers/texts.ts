/** Texts for properties. */
import fc from "fast-check";

const character = fc.nat({ max: 0x10ffff }).map((code) => String.fromCodePoint(code));

/** Of all code points: fast-check's own unit of them takes seconds to be made, in each file that uses it. */
export function anyText(maxLength = 100): fc.Arbitrary<string> {
  return fc.array(character, { maxLength }).map((characters) => characters.join("").toWellFormed());
}
