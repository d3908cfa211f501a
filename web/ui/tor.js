/**
 * Does: the part of the node's card that is about the Tor network: the switch, how far its directory is, what is wrong.
 * Does not: use it; the node does.
 *
 * What the node says of it: `{stage: "off"|"code"|"entry"|"list"|"ready"|"failed", percent, relays, why}`: whether the
 * program's part for it is loaded, a node that leads there is looked for, the list of relays is loaded; `why`: code and
 * values of what is wrong, or null.
 */

import { byId, setText } from "./dom.js";
import { words } from "./messages.js";
import { sentence } from "./words.js";

const STAGES = {
  off: "Off",
  code: "Loading the program's part for it",
  entry: "Looking for a node that leads there",
  list: "Loading the list of Tor relays",
  ready: "In use for what begins now",
  failed: "Not in use",
};

/** @param {ReturnType<import("./choices.js").createChoices>} choices */
export function torControls(choices) {
  const toggle = byId("tor-switch");
  const error = byId("tor-error");
  let on = false;
  let failed = ""; // what the node could not even be told

  toggle.addEventListener("click", () => {
    failed = "";
    choices.change({ tor: !on }).catch((failure) => {
      failed = sentence(failure.message);
    });
  });
  choices.watch(({ tor }) => {
    on = tor;
    toggle.setAttribute("aria-checked", String(on));
  });

  return {
    update({ tor }) {
      const loading = tor.stage === "list";
      setText(byId("tor-stage"), STAGES[tor.stage]); // read out: so without what changes each second
      setText(byId("tor-percent"), loading ? `: ${tor.percent} %` : tor.relays ? `; ${tor.relays} relays known` : "");
      byId("tor-dot").dataset.state = tor.stage === "ready" ? "on" : "off";
      byId("tor-progress").hidden = !loading;
      byId("tor-progress").value = tor.percent;
      setText(error, failed || words(tor.why));
    },
  };
}
