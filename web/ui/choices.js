/**
 * Does: hold what the person chose (settings.js) for this tab: change, keep and tell it to the node; take over what
 * another tab changed.
 * Does not: show it.
 */

import { checked, isMetered, keepSettings, loadSettings } from "./settings.js";

/**
 * @param {(name: string, args?: object) => Promise<any>} command
 * @returns {{message: () => object, watch: (show: (settings: object) => void) => void, change: (part: object) =>
 *   Promise<void>, tell: () => Promise<void>, update: (state: object) => void}} `message`: what the worker needs to know
 *   from its start; `watch`: shows the settings now, and whenever they change; `change` and `tell` reject with an Error
 *   for people to read.
 */
export function createChoices(command) {
  let settings = loadSettings();
  let unanswered = 0; // changes of ours that the node may not show yet
  let last = null;
  const watching = [];

  const message = () => ({ settings, onMetered: isMetered() });
  const take = (next) => {
    settings = next;
    for (const show of watching) show(settings);
  };
  const tell = async () => {
    unanswered += 1;
    try {
      await command("settings", message());
    } finally {
      unanswered -= 1;
    }
  };
  return {
    message,
    tell,
    watch(show) {
      watching.push(show);
      show(settings);
    },
    change(part) {
      take(checked({ ...settings, ...part }, settings));
      keepSettings(settings);
      return tell();
    },
    update(state) {
      if (state !== last && state.settings && !unanswered) take(checked(state.settings)); // perhaps another tab's
      last = state;
    },
  };
}
