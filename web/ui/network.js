/**
 * Does: say how many nodes there are, how old what this page knows of them is, and how the day's random value was drawn.
 * Does not: warn of a facilitator that lies (status.js).
 *
 * The node's state has `nodes`, and `epoch`: null in a small network, all of whose nodes are listed, else `{number, age:
 * seconds since its header was signed, drawn: {announced, committed, counted}|null}`.
 */

import { byId, setText } from "./dom.js";
import { count, span } from "./words.js";

/** @param {{nodes: number, epoch: object|null}} state */
export function showNetwork({ nodes, epoch }) {
  byId("network").hidden = !nodes;
  setText(byId("network-count"), count(nodes, "node"));
  setText(
    byId("network-note"),
    epoch ? `${headerWords(epoch)} ${drawWords(epoch.drawn)}` : "Your node has the list of all of them.",
  );
}

const headerWords = ({ number, age }) =>
  `Your node knows a part of it, checked against the header of epoch ${number}, signed ${span(age)} ago.`;

function drawWords(drawn) {
  if (!drawn) return "How today's random value was drawn has not been checked yet.";
  const { announced, counted } = drawn;
  if (!announced) return "How today's random value was drawn cannot be checked: your node came too late to know.";
  if (counted > 1) return `Today's random value was drawn by ${counted} facilitators together.`;
  if (counted) return "Today's random value was drawn by one facilitator alone, which knew it a day ahead.";
  return "Nobody drew today's random value: it could be known a day ahead.";
}
