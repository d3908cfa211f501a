/**
 * Does: draw the node's circuits hop by hop, from "You" on the left, and say the same in words for screen readers.
 * Does not: ask the node anything; it draws a state.
 *
 * A circuit: `{id, state: "building"|"ready"|"in use", purpose: "ready"|"rendezvous"|"exit"|"directory",
 * hops: [{identity: hex, nickname: string, roles: string[], built: boolean}]}`. Relays of Tor have nicknames.
 */

import { byId, drawing, svg } from "./dom.js";

const ROWS = 5; // circuits that the node keeps ready; a place is drawn for each before it stands
const ROWS_MOST = 12; // drawn at most; the others are counted
const LEAST_HOPS = 2;
const ROW_HEIGHT = 46;
const TOP = 34;
const LEAST_WIDTH = 260; // px
const NARROW = 400; // px: below it the right-hand words go
const LAST_HOP = { rendezvous: "rdv", exit: "exit" }; // purpose -> class of the last hop
const WORDS = { rendezvous: "meeting", exit: "fetching", directory: "list" };
const LABEL = 8; // characters of a nickname

/** Whether a circuit can carry something. */
export const stands = (circuit) => circuit.state !== "building";

const wordOf = (circuit) => (stands(circuit) ? (WORDS[circuit.purpose] ?? "ready") : "building");

const nameOf = (hop) => hop.nickname || hop.identity.slice(0, 4);

const labelOf = (hop) => {
  const name = nameOf(hop);
  return name.length > LABEL ? `${name.slice(0, LABEL - 1)}…` : name;
};

const isTor = (circuit) => circuit.hops.some((hop) => hop.nickname);

function describe(circuits) {
  const open = circuits.filter(stands);
  const lines = open.map((circuit, number) => {
    const hops = circuit.hops.map((hop) => `${hop.nickname ? "Tor relay" : "node"} ${nameOf(hop)}`);
    return `Circuit ${number + 1}, ${wordOf(circuit)}: you, ${hops.join(", ")}.`;
  });
  return `${open.length} of ${Math.max(ROWS, circuits.length)} circuits stand. ${lines.join(" ")}`;
}

/**
 * @param {HTMLElement} host
 * @returns {{update: (circuits: object[]) => void}}
 */
export function drawCircuits(host) {
  const draw = drawing(host, LEAST_WIDTH, picture);
  return {
    update(circuits) {
      byId("legend-tor").hidden = !circuits.some(isTor);
      draw(circuits);
    },
  };
}

function picture(circuits, width) {
  const rows = circuits.slice(0, ROWS_MOST);
  const spare = Math.max(0, ROWS - rows.length);
  const hidden = circuits.length - rows.length;
  const total = rows.length + spare;
  const height = TOP + total * ROW_HEIGHT + (hidden ? 20 : 0);
  const words = width >= NARROW;
  const you = { x: 26, y: TOP + (total * ROW_HEIGHT) / 2 - 6 };
  const right = width - (words ? 96 : 30);
  const first = width * (words ? 0.34 : 0.4);
  const column = (index, length) => (length < 2 ? right : first + ((right - first) * index) / (length - 1));

  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": describe(circuits) });
  root.append(svg("text", { class: "head", x: first, y: 14, "text-anchor": "middle" }, "first hop"));
  if (right - first > 110)
    root.append(svg("text", { class: "head", x: right, y: 14, "text-anchor": "middle" }, "last hop"));

  const row = (index, circuit) => {
    const y = TOP + index * ROW_HEIGHT + ROW_HEIGHT / 2 - 10;
    const state = circuit ? (stands(circuit) ? "open" : "building") : "empty";
    const busy = circuit?.state === "in use" ? " busy" : "";
    const hops = [...(circuit?.hops ?? [])];
    while (hops.length < LEAST_HOPS) hops.push(null); // not there yet
    const begin = column(0, hops.length);
    const bend = (you.x + begin) / 2;
    const path = `M${you.x} ${you.y}C${bend} ${you.y} ${bend} ${y} ${begin} ${y}H${right}`;
    root.append(svg("path", { class: `wire ${state}${busy}`, d: path }));
    hops.forEach((hop, place) => {
      const x = column(place, hops.length);
      const last = place === hops.length - 1;
      const role = last && state === "open" ? (LAST_HOP[circuit.purpose] ?? "") : "";
      const own = !hop ? "empty" : hop.built || state === "open" ? "open" : "building";
      const size = last ? 7.5 : 6;
      if (hop?.nickname)
        root.append(
          svg("rect", { class: `hop ${own} ${role}`, x: x - size, y: y - size, width: 2 * size, height: 2 * size }),
        );
      else root.append(svg("circle", { class: `hop ${own} ${role}`, cx: x, cy: y, r: size }));
      if (hop) root.append(svg("text", { x, y: y + 22, "text-anchor": "middle" }, labelOf(hop)));
    });
    if (words && circuit) root.append(svg("text", { class: "word", x: right + 18, y: y + 4.5 }, wordOf(circuit)));
  };
  for (let index = 0; index < total; index += 1) row(index, rows[index]);
  root.append(svg("circle", { class: "hop you", cx: you.x, cy: you.y, r: 10 }));
  root.append(svg("text", { class: "word", x: you.x, y: you.y + 29, "text-anchor": "middle" }, "You"));
  if (hidden)
    root.append(
      svg("text", { class: "head", x: width / 2, y: height - 4, "text-anchor": "middle" }, `and ${hidden} more`),
    );
  return root;
}
