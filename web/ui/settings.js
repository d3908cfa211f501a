/**
 * Does: keep what the person lets this browser's node do, one object for all tabs, in localStorage; notice a
 * metered connection.
 * Does not: show it, or tell the node.
 *
 * Settings: `{relay, rdv, direct, metered, group, tor: boolean, circuits, streams, upload, share, volume, hops:
 * number}`: work for others at all; be a meeting point; serve there what this browser shares; relay also on metered
 * connections; let all that is shared use the same circuits; use the Tor network; circuits and streams of others at
 * once; what the connection can upload (Mbit/s) and the percentage of it for others; MiB to relay a visit (0: no
 * limit); hops of the own circuits.
 */

const KEY = "convergence-settings";

export const DEFAULTS = Object.freeze({
  relay: true,
  rdv: true,
  direct: false,
  metered: false,
  group: false,
  tor: false,
  circuits: 1024,
  streams: 1024,
  upload: 20,
  share: 50,
  volume: 0,
  hops: 2,
});

/** The least, the most, and the step of each number. */
export const RANGES = Object.freeze({
  circuits: [1, 8192, 1],
  streams: [1, 8192, 1],
  upload: [0.1, 10_000, 0.1],
  share: [1, 100, 1],
  volume: [0, 1_048_576, 1],
  hops: [1, 5, 1],
});

/**
 * Settings that the node accepts, whatever was given: a number is brought into its range, and any other wrong value is
 * replaced by that of `otherwise`.
 * @param {any} given
 * @param {object} [otherwise] Settings.
 */
export function checked(given, otherwise = DEFAULTS) {
  const settings = {};
  for (const [name, fallback] of Object.entries(otherwise)) {
    const value = given?.[name];
    if (name in RANGES) settings[name] = Number.isFinite(value) ? within(value, RANGES[name]) : fallback;
    else settings[name] = typeof value === "boolean" ? value : fallback;
  }
  return settings;
}

function within(value, [least, most, step]) {
  const parts = 1 / step; // a whole number; a tenth is not exact in binary
  return Math.min(most, Math.max(least, Math.round(value * parts) / parts));
}

/** @returns {object} settings: those of the last visit, or the defaults where nothing of use was kept */
export function loadSettings() {
  try {
    return checked(JSON.parse(localStorage.getItem(KEY)));
  } catch {
    return { ...DEFAULTS }; // damaged JSON, or a browser that keeps nothing
  }
}

/** @param {object} settings They are lost with the last tab if the browser keeps nothing. */
export function keepSettings(settings) {
  try {
    localStorage.setItem(KEY, JSON.stringify(settings));
  } catch {
    // The node has them all the same.
  }
}

/** @returns {boolean} whether each byte may cost the person something; false in browsers that do not tell */
export function isMetered() {
  const { saveData, type } = navigator.connection ?? {};
  return saveData === true || type === "cellular";
}

/** @param {() => void} changed Called when `isMetered` may have changed. */
export function watchMetered(changed) {
  navigator.connection?.addEventListener?.("change", changed);
}
