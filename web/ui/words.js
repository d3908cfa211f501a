/**
 * Does: turn numbers into words, and names that strangers chose into harmless ones.
 * Does not: touch the page.
 */

const UNITS = ["B", "KB", "MB", "GB", "TB"];
const NAME_LIMIT = 120; // characters of a received name that are shown
const EXTENSION_LIMIT = 16;

// Controls, line separators, invisible characters but joiners, and marks that reorder text ("gpj.exe" as "exe.jpg").
const INVISIBLE =
  /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/gu;

/** @param {number} size in bytes @returns {string} such as "1.2 MB" (units of 1,000) */
export function bytes(size) {
  let unit = 0;
  let value = Number(size) || 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 || value >= 99.5 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

/** @param {number} seconds @returns {string} such as "40 s", "3 min", "2 h" */
export function span(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3600)} h`;
}

/** @returns {string} "1 piece", "2 pieces" */
export const count = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;

/** @returns {string} a message of the node as a sentence: "the site is down" -> "The site is down." */
export function sentence(message) {
  const text = String(message ?? "").trim();
  return text && text[0].toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? "" : ".");
}

function shorten(name) {
  const letters = [...name];
  if (letters.length <= NAME_LIMIT) return name;
  const dot = letters.lastIndexOf(".");
  const tail = dot > 0 && letters.length - dot <= EXTENSION_LIMIT ? letters.slice(dot) : [];
  return [...letters.slice(0, NAME_LIMIT - 1 - tail.length), "…", ...tail].join("");
}

/**
 * A received name, fit to be shown as text: nothing invisible or reordering in it, at most 120 characters.
 * @param {string} name
 */
export function shownName(name) {
  return (
    shorten(
      String(name ?? "")
        .replace(INVISIBLE, " ")
        .trim(),
    ) || "Unnamed file"
  );
}
