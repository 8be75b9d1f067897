/** What may be shown of a text that has a password in it. */

/**
 * Takes the password out of a URL, also out of one that is none: everything between the colon behind the user and the last `@`.
 *
 * @param text  one URL
 * @returns     the text with `***` in the place of the password
 */
export function withoutPassword(text: string): string {
  const begin = text.indexOf("://");
  const colon = text.indexOf(":", begin + 3);
  const at = text.lastIndexOf("@");
  return begin === -1 || colon === -1 || at < colon ? text : `${text.slice(0, colon)}:***${text.slice(at)}`;
}

/** The same for a text that an operator gave and that is refused: what has no `://` may be a piece of a password. */
export function shownUrl(text: string): string {
  return text.includes("://") ? JSON.stringify(withoutPassword(text)) : `a text of ${text.length} characters`;
}
