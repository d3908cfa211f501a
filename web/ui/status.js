/**
 * Does: show what the node is doing: starting, ready, failed; its counters; notices with what to do about them.
 * Does not: draw circuits or files.
 */

import { stands } from "./circuits.js";
import { byId, el, setText } from "./dom.js";
import { troubleWords } from "./messages.js";
import { bytes, count } from "./words.js";

const MARKED =
  "Your bookmark started this page: after a reload, click the bookmark again, and use nothing before that.";
const LIED =
  "Whoever chooses which nodes you meet can find out whom you are in touch with: use the site of another network for " +
  "what has to stay secret.";

/**
 * @param {object} state
 * @param {"leader"|"guest"|null} role
 * @param {boolean} marked A bookmark started this page: a reload brings another one, the site's.
 */
export function showStatus(state, role, marked) {
  const open = state.circuits.filter(stands).length;
  const kind = state.failed ? "failed" : state.ready && open ? "ready" : "starting";
  const percent = Math.round(state.phase.percent);
  const words = {
    failed: "Stopped",
    ready: `Ready, ${count(open, "circuit")}`,
    starting: state.ready ? "Reconnecting" : `Starting, ${percent} %`,
  };
  byId("status").dataset.state = kind;
  setText(byId("status-text"), words[kind]);
  byId("starting").hidden = kind !== "starting";
  byId("phase").value = state.phase.percent;
  setText(byId("phase-text"), state.phase.text);
  setText(
    byId("node-role"),
    role === "guest" ? "runs in another tab" : state.ready ? `ready in ${state.seconds.toFixed(1)} s` : "",
  );
  setText(byId("count-sent"), bytes(state.bytes.sent));
  setText(byId("count-received"), bytes(state.bytes.received));
  setText(byId("count-relayed"), bytes(state.bytes.relayed));
  byId("count-relayed").parentElement.hidden = !state.bytes.relayed;
  if (state.failed && marked) notice("failed", `${state.failed} ${MARKED}`);
  else if (state.failed) notice("failed", state.failed, { label: "Reload", run: () => location.reload() });
  else dismiss("failed");
  if (state.trouble && !state.failed) notice("trouble", troubleWords(state.trouble));
  else dismiss("trouble");
  if (state.warnings.length) notice("lies", [...state.warnings.map(troubleWords), LIED].join(" "));
}

/**
 * Shows a message at the top of the page, once per key; a new text replaces the one before.
 * @param {string} key
 * @param {string} message What happened and what to do.
 * @param {{label: string, run: () => void}} [action]
 */
export function notice(key, message, action) {
  const box = byId("notices");
  let line = box.querySelector(`[data-key="${key}"]`);
  if (!line) {
    line = el("p", { class: "notice", "data-key": key }, el("span"));
    if (action) line.append(el("button", { type: "button", class: "small", click: action.run }, action.label));
    box.append(line);
  }
  setText(line.firstChild, message);
}

/** Takes the message with this key away. @param {string} key */
export function dismiss(key) {
  byId("notices").querySelector(`[data-key="${key}"]`)?.remove();
}
