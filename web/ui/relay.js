/**
 * Does: the part of the node's card that is about others: the switch, what it does now, the limits.
 * Does not: relay, or decide why it pauses; the node's worker does.
 *
 * What the node says of it: `{on, why: ""|"starting"|"paused"|"metered"|"volume"|"site"|"browser", reachable, circuits,
 * circuitsTotal, streams, bytes}`; `why` tells what keeps it from working for others.
 */

import { byId, setText } from "./dom.js";
import { RANGES, watchMetered } from "./settings.js";
import { bytes, count, sentence } from "./words.js";

const FLAGS = ["rdv", "direct", "metered", "group"];
const NUMBERS = Object.keys(RANGES);
const STOPPED = {
  starting: "Begins when your node runs",
  paused: "Paused",
  metered: "Paused: metered connection",
  volume: "Paused: this visit's volume is used up",
  site: "This site's network does not use browsers as relays.",
  browser: "This browser has no WebRTC, by which other nodes would reach it.",
};

/**
 * @param {ReturnType<import("./choices.js").createChoices>} choices
 * @returns {{update: (state: object, role: "leader"|"guest"|null) => void}}
 */
export function relayControls(choices) {
  const toggle = byId("relay-switch");
  const error = byId("relay-error");
  let settings = null;
  let role = null;

  const show = () => {
    toggle.setAttribute("aria-checked", String(settings.relay && !toggle.disabled));
    for (const name of FLAGS) byId(`set-${name}`).checked = settings[name];
    for (const name of NUMBERS) {
      const field = byId(`set-${name}`);
      if (field !== document.activeElement) field.value = settings[name];
    }
    setText(byId("set-rate"), `${bytes((settings.upload * settings.share * 1e6) / 800)}/s at most`);
  };
  const settle = (told) => {
    setText(error, "");
    told.catch((failure) => setText(error, sentence(failure.message)));
  };
  const change = (part) => settle(choices.change(part));

  toggle.addEventListener("click", () => change({ relay: !settings.relay }));
  for (const name of FLAGS)
    byId(`set-${name}`).addEventListener("change", ({ target }) => change({ [name]: target.checked }));
  for (const name of NUMBERS) {
    const field = byId(`set-${name}`);
    [field.min, field.max, field.step] = RANGES[name];
    field.addEventListener("change", () => {
      change({ [name]: field.valueAsNumber });
      field.value = settings[name]; // the value that was accepted, even while the field has the focus
    });
  }
  byId("limits").addEventListener("submit", (event) => event.preventDefault());
  watchMetered(() => role === "leader" && settle(choices.tell()));
  choices.watch((next) => {
    settings = next;
    show();
  });

  return {
    update({ relay }, next) {
      role = next;
      const barred = relay.why === "site" || relay.why === "browser";
      toggle.disabled = byId("limits-relay").disabled = barred;
      show();
      byId("relay-dot").dataset.state = relay.on && relay.reachable ? "on" : "off";
      setText(byId("relay-note"), relayNote(relay));
      setText(byId("relay-stage"), STOPPED[relay.why] ?? "Working for others");
      byId("words-relay").hidden = barred;
    },
  };
}

function relayNote(relay) {
  if (relay.why) return STOPPED[relay.why];
  if (!relay.reachable) return "Nobody can reach this browser yet";
  if (relay.circuits) return `Passing on ${count(relay.circuits, "circuit")} for others; ${bytes(relay.bytes)} so far`;
  return relay.bytes ? `Nothing to pass on now; ${bytes(relay.bytes)} so far` : "Ready; nobody has needed it yet";
}
