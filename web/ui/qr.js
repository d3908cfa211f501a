/**
 * Does: draw a text as a QR code in one SVG path, dark on white with the quiet zone that scanners need.
 * Does not: make markup from the text.
 */

import { encode } from "uqr";

import { svg } from "./dom.js";

const QUIET_ZONE = 4; // modules (ISO/IEC 18004)

/**
 * @param {string} text
 * @param {string} label What the code is, for screen readers.
 * @returns {SVGElement}
 */
export function qrCode(text, label) {
  const { data, size } = encode(text, { ecc: "M", border: QUIET_ZONE });
  let path = "";
  for (const [y, line] of data.entries())
    for (const [x, dark] of line.entries()) if (dark) path += `M${x} ${y}h1v1h-1z`;
  return svg(
    "svg",
    { class: "qr", viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": label, "shape-rendering": "crispEdges" },
    svg("path", { d: path }),
  );
}
