/**
 * Does: find the share link in what somebody pastes or opens, whatever was put around or into it on its way; know a
 * word code.
 * Does not: check that it leads anywhere. shared/convergence/wire/sharelink.py says the same in Python.
 */

const LETTER = "[A-Za-z0-9_-]";
const BREAK = "(?:=?[ \\t]{0,8}\\r?\\n[ \\t>|]{0,32})?"; // mail programs end lines anywhere, and quote the next one
const PART = `(${LETTER}(?:${BREAK}${LETTER}){42})`;
const LINK = new RegExp(`(?<!${LETTER})${PART}${BREAK}\\.${BREAK}${PART}(?!\\.?${LETTER})`, "g");
const MAX_TEXT = 65_536;
const CODE = /^\s*[0-9]{1,6}[\s,_-]+[a-z]{2,20}(?:[\s,_-]+[a-z]{2,20})?[\s,.]*$/i; // as in wire/wordcode.py
const INVISIBLE = /\p{Cf}/gu;
// What programs put in place of a character, once or twice ("%2523" is "#").
const ESCAPED = [
  [/%(?:25)*23/g, "#"],
  [/%(?:25)*2e/gi, "."],
  [/%(?:25)*(?:e2%(?:25)*80%(?:25)*8[b-d]|ef%(?:25)*bb%(?:25)*bf|c2%(?:25)*ad)/gi, ""],
];

/** @param {string} text @returns {string[]} the different links in it, as `<hash_name>.<key>` */
export function linksIn(text) {
  let tidied = text.slice(0, MAX_TEXT);
  for (const [pattern, meant] of ESCAPED) tidied = tidied.replace(pattern, meant);
  const found = [...tidied.replace(INVISIBLE, "").matchAll(LINK)];
  return [...new Set(found.map(([, ...parts]) => parts.map((part) => part.match(/[\w-]/g).join("")).join(".")))];
}

/** Whether somebody typed a word code, such as 7-crossover-clockwork, or one with a mistake. */
export const isCode = (text) => text.length <= 100 && CODE.test(text);
