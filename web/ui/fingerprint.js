/**
 * Does: show a root hash in ways that people can compare: 24 words (BIP-39, English) and a picture of 8 by 8 tiles.
 * Does not: know whether a hash is the right one.
 *
 * The words carry all 256 bits and a checksum; so does the picture, four bits a tile: two its colour, two its shape.
 */

import { entropyToMnemonic } from "@scure/bip39";
import { wordlist } from "@scure/bip39/wordlists/english.js";
import { svg } from "./dom.js";

const SIDE = 8; // tiles
const TILE = 10; // units of the picture
const SHAPES = [
  `h${TILE}v${TILE}h-${TILE}z`, // the whole tile
  `h${TILE}l-${TILE} ${TILE}z`, // its upper left half
  `m${TILE} 0v${TILE}h-${TILE}z`, // its lower right half
  `m${TILE / 2} 0l${TILE / 2} ${TILE / 2}l-${TILE / 2} ${TILE / 2}l-${TILE / 2}-${TILE / 2}z`, // a diamond
];

/** @param {string} root 64 hex digits @returns {string[]} 24 words */
export const words = (root) =>
  entropyToMnemonic(
    Uint8Array.from(root.match(/../g), (pair) => parseInt(pair, 16)),
    wordlist,
  ).split(" ");

/** @param {string} root @returns {SVGElement} */
export function picture(root) {
  const size = SIDE * TILE;
  const label = `Picture of the root hash that begins with the words ${words(root).slice(0, 4).join(" ")}`;
  const drawn = svg("svg", { class: "tiles", viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": label });
  [...root].forEach((digit, place) => {
    const bits = parseInt(digit, 16);
    const [x, y] = [(place % SIDE) * TILE, Math.floor(place / SIDE) * TILE];
    drawn.append(svg("path", { class: `tile-${bits & 3}`, d: `M${x} ${y}${SHAPES[bits >> 2]}` }));
  });
  return drawn;
}
