/**
 * The node's worker.
 *
 * Does: load Pyodide and, beside it, the node's Python, the network's description and the cryptography; lend Python the
 * browser's channels, database and timer; pass commands in and states out.
 * Does not: know the protocol, or touch the page. Everything comes from this page's own origin.
 */

import { loadPyodide } from "../pyodide/pyodide.mjs";
import { createChannels } from "./channels.js";
import { createCrypto } from "./crypto.js";
import { openDatabase } from "./database.js";

const site = new URL("../", self.location.href);
const waiting = []; // commands that came before the node could take them
let host = null;
const listener = {}; // filled in by Python before anything is asked of channels or database
const relayed = new Proxy({}, { get: (_, name) => (...values) => guard(() => listener[name](...values)) });
let take = (message) => (host ? command(message) : waiting.push(message));

/**
 * The page's first message: `port` to its bridge for WebRTC, or null, and what the node may do for others. Later ones are
 * commands, and "moved": this machine is on another network.
 * @type {Promise<{port: MessagePort|null, settings: object, onMetered: boolean}>}
 */
const told = new Promise((resolve) => {
  self.onmessage = ({ data }) => {
    if (data.type === "start") resolve(data);
    else if (data.type !== "moved") take(data);
    else if (host) relayed.moved();
  };
});

start().catch((error) => {
  console.error(error);
  const failed = `The node could not start: ${error.message ?? error}. Reload the page to try again.`;
  self.postMessage({ type: "state", state: { ready: false, failed } });
  take = ({ id }) => self.postMessage({ type: "reply", id, ok: false, message: failed });
  waiting.forEach(take);
});

async function start() {
  phase(5, "Loading Python and the program");
  const [pyodide, code, network, primitives, database, { port, settings, onMetered }] = await Promise.all([
    loadPyodide({ indexURL: new URL("pyodide/", site).href, checkAPIVersion: true }).then((loaded) => {
      phase(60, "Python runs; loading the node");
      return loaded;
    }),
    loadCode(),
    fetched("network.json", (answer) => answer.json()),
    createCrypto(),
    openDatabase(relayed.answered),
    told,
  ]);
  const rtc = port && network.rtc ? { port, stun: network.rtc.stun } : null;
  pyodide.FS.writeFile("/app.zip", code); // Python imports straight from it: nothing is unpacked
  pyodide.registerJsModule("convergence_platform", primitives);
  pyodide.registerJsModule("convergence_shell", {
    listener, database, network, post,
    channels: createChannels(relayed, rtc),
    rtc: rtc !== null,
    settings: { settings, onMetered },
    timer: createTimer(relayed.tick),
    body: () => createBody(),
    site: site.href,
    opened: performance.timeOrigin,
  });
  const boot = pyodide.runPython(`
    import sys
    sys.path.insert(0, "/app.zip")
    import node_host
    node_host
  `);
  phase(75, "Looking for the network");
  host = await boot.start();
  boot.destroy();
  waiting.splice(0).forEach(command);
}

/** @returns {Promise<Uint8Array>} the archive with the node's Python, sources and bytecode */
async function loadCode() {
  const [{ files }, bytes] = await Promise.all([
    fetched("manifest.json", (answer) => answer.json()),
    fetched("app.zip", (answer) => answer.arrayBuffer()),
  ]);
  if ((await sha256(bytes)) !== files["app.zip"].sha256) throw new Error("app.zip is not the file that the site's list names");
  return new Uint8Array(bytes);
}

async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function fetched(name, read) {
  const answer = await fetch(new URL(name, site)).catch(() => null);
  if (!answer?.ok) throw new Error(`the site did not give ${name} (${answer ? answer.status : "no answer"})`);
  return read(answer);
}

function phase(percent, text) {
  self.postMessage({ type: "state", state: { phase: { percent, text } } });
}

/** @param {string} state JSON, so that one crossing carries it all */
function post(state) {
  self.postMessage({ type: "state", state: JSON.parse(state) });
}

/** One timer for the node; arming it again replaces the one before, a negative delay only takes it away. */
function createTimer(tick) {
  const LONGEST_MS = 60_000; // a clock that was set, or a machine that slept, is noticed within this
  let armed = null;
  return (delay) => {
    clearTimeout(armed);
    armed = delay < 0 ? null : setTimeout(tick, Math.min(delay, LONGEST_MS));
  };
}

/** Gathers what an exit fetched; the browser keeps Blobs on disk when they grow. */
function createBody() {
  const parts = [];
  return {
    add: (view) => parts.push(new Blob([view])),
    blob: () => new Blob(parts, { type: "application/octet-stream" }),
  };
}

/** An error inside Python is a defect: it is said once and must not end the worker. */
function guard(call) {
  try {
    call();
  } catch (error) {
    console.error(error);
    host?.defect(String(error.type ?? error.name));
  }
}

async function command({ id, name, args }) {
  try {
    self.postMessage({ type: "reply", id, ...(await host.command(name, args)) });
  } catch (error) {
    console.error(error);
    self.postMessage({ type: "reply", id, ok: false, message: "The node met an error of its own. Reload the page, then try again." });
  }
}
