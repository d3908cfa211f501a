/**
 * Does: draw the node's neighbours around "You", list them in words, say why one could not be reached.
 * Does not: ask the node anything; it draws a state.
 *
 * A link: `{peer: 16 hex digits, kind: "rtc"|"ws", state: "open"|"connecting"|"restarting"|"failed", dialled, circuits,
 * sent, received: bytes, why}`; one that failed is in the state for some seconds only.
 */

import { byId, drawing, el, keepList, setText, svg } from "./dom.js";
import { words } from "./messages.js";
import { bytes, count } from "./words.js";

const DRAWN_MOST = 12; // the others are counted
const LISTED_MOST = 64;
const HEIGHT = 200;
const LEAST_WIDTH = 240; // px
const MARGIN = { x: 26, y: 26 }; // from the picture's edge to a neighbour
const KINDS = { rtc: "WebRTC", ws: "WebSocket" };
const STATES = { connecting: "connecting", restarting: "looking for a new way", failed: "not reached" };

const shortName = (link) => link.peer.slice(0, 4);
const isOpen = (link) => link.state === "open" || link.state === "restarting";

/** @returns {{update: (links: object[]) => void}} */
export function drawLinks() {
  const host = byId("links");
  const list = byId("link-list");
  const draw = drawing(host, LEAST_WIDTH, picture, (links) =>
    links.map(({ peer, kind, state }) => [peer, kind, state]),
  );
  return {
    update(links) {
      const open = links.filter(isOpen);
      const direct = open.filter((link) => link.kind === "rtc").length;
      host.dataset.open = open.length;
      host.dataset.rtc = direct;
      setText(byId("links-count"), summary(open.length, direct));
      setText(byId("links-failed"), failures(links.filter((link) => link.state === "failed")));
      keepList(
        list,
        links.slice(0, LISTED_MOST).map((link) => ({ ...link, id: `${link.peer} ${link.kind}` })),
        linkView,
      );
      host.hidden = byId("links-more").hidden = !links.length;
      draw(links);
    },
  };
}

function summary(open, direct) {
  const kinds = [direct && `${direct} by WebRTC`, open - direct && `${open - direct} by WebSocket`];
  return kinds.filter(Boolean).join(", ") || "none yet";
}

function failures(links) {
  const reasons = [...new Set(links.map((link) => words(link.why)))];
  const names = (reason) =>
    links
      .filter((link) => words(link.why) === reason)
      .map(shortName)
      .join(", ");
  return reasons.map((reason) => `Not reached: ${names(reason)}. ${reason}`).join(" ");
}

function linkView() {
  const note = el("span", { class: "link-note" });
  const name = el("code");
  const root = el("li", { "data-testid": "link" }, name, note);
  return {
    root,
    update(link) {
      Object.assign(root.dataset, { state: link.state, kind: link.kind, peer: link.peer });
      setText(name, link.peer.slice(0, 8));
      setText(
        note,
        [KINDS[link.kind], STATES[link.state] ?? "", words(link.why), ...traffic(link)].filter(Boolean).join(" · "),
      );
    },
  };
}

const traffic = (link) =>
  isOpen(link) ? [count(link.circuits, "circuit"), `${bytes(link.sent)} out`, `${bytes(link.received)} in`] : [];

function picture(links, width) {
  const around = links.slice(0, DRAWN_MOST);
  const hidden = links.length - around.length;
  const middle = { x: width / 2, y: HEIGHT / 2 };
  const words = around.map(
    (link) => `${shortName(link)}, ${KINDS[link.kind]}${STATES[link.state] ? `, ${STATES[link.state]}` : ""}`,
  );
  const label = `Your neighbours: ${words.join("; ")}.`;
  const root = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, role: "img", "aria-label": label });
  const places = around.map((link, index) => {
    const turned = Math.PI / Math.max(2, around.length); // so that no neighbour is right above
    const angle = (index / around.length) * 2 * Math.PI - Math.PI / 2 + turned;
    return {
      link,
      x: middle.x + Math.cos(angle) * (middle.x - MARGIN.x),
      y: middle.y + Math.sin(angle) * (middle.y - MARGIN.y),
    };
  });
  for (const { link, x, y } of places)
    root.append(svg("path", { class: `line ${link.kind} ${link.state}`, d: `M${middle.x} ${middle.y}L${x} ${y}` }));
  for (const { link, x, y } of places) {
    const look = { class: `peer ${link.kind} ${link.state}` };
    root.append(
      link.kind === "rtc"
        ? svg("circle", { ...look, cx: x, cy: y, r: 7 })
        : svg("rect", { ...look, x: x - 6, y: y - 6, width: 12, height: 12, rx: 2 }),
    );
    const below = y > middle.y; // the name stands where no line crosses it
    root.append(svg("text", { x, y: below ? y + 21 : y - 13, "text-anchor": "middle" }, shortName(link)));
  }
  root.append(svg("circle", { class: "hop you", cx: middle.x, cy: middle.y, r: 10 }));
  root.append(svg("text", { class: "word", x: middle.x, y: middle.y + 29, "text-anchor": "middle" }, "You"));
  if (hidden)
    root.append(
      svg("text", { class: "head", x: width - 4, y: HEIGHT - 4, "text-anchor": "end" }, `and ${hidden} more`),
    );
  return root;
}
