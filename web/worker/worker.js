/**
 * The node's worker.
 *
 * Does: load Pyodide and, beside it, the node's Python, the network's description and the cryptography; lend Python the
 * browser's channels, database and timer; pass commands in and states out.
 * Does not: know the protocol, or touch the page. Everything comes from this page's own origin, or was verified before.
 */

import { assets } from "../code/assets.js";
import { fetchNetwork, readNetwork } from "../code/network.js";
import { createChannels } from "./channels.js";
import { createCrypto } from "./crypto.js";
import { openDatabase } from "./database.js";
import { createPagePipes } from "./page_pipes.js";
import { dropSnapshots, findSnapshot, keepSnapshot } from "./snapshot.js";
import { createTls } from "./tls.js";

const SETTLED_MS = 5000; // after the start, until the snapshot is written: the node's first circuits come first
const FETCHED_WITHIN = 300_000; // ms that one file may take on a slow line
const NETWORK_TRIES = 3; // to get the network's description from the site
const NETWORK_PAUSE_MS = 2000; // between two of them

const waiting = []; // commands that came before the node could take them
let host = null;
let restoredFor = ""; // the site whose snapshot this start is made from
const listener = {}; // filled in by Python before anything is asked of channels or database
const relayed = new Proxy(
  {},
  {
    get:
      (_, name) =>
      (...values) =>
        guard(() => listener[name](...values)),
  },
);
const take = (message) => (host ? command(message) : waiting.push(message));

/**
 * The page's first message: `port` to its bridge for WebRTC, or null; where the code is (`files` as for
 * code/assets.js), which `network` to join, null for the site's, and the `root` hash that a snapshot may be kept for;
 * what the node may do for others; whether to `restore` what earlier runs shared and fetched. Later messages are
 * commands, and "moved": this machine is on another network.
 * @type {Promise<{port: MessagePort|null, code: {site: string, files: object|null, network: object|null, root: string},
 *   settings: object, onMetered: boolean, restore: boolean}>}
 */
const told = new Promise((resolve) => {
  self.onmessage = ({ data }) => {
    if (data.type === "start") resolve(data);
    else if (data.type !== "moved") take(data);
    else if (host) relayed.moved();
  };
});

start().catch(async (error) => {
  console.error(error);
  if (restoredFor) await dropSnapshots(restoredFor); // it may be the cause, after an update of the browser for instance
  const why = String(error.message ?? error)
    .trim()
    .split("\n")
    .at(-1); // of Python's, what follows the traceback
  const failed = `The node could not start: ${why}. Reload the page to try again.`;
  self.postMessage({ type: "state", state: { ready: false, failed } }); // the page ends this worker
});

async function start() {
  phase(5, "Loading Python and the program");
  const {
    port,
    code: { site, files, network: given, root },
    settings,
    onMetered,
    restore,
  } = await told;
  const asset = assets(site, files);
  const load = (name) => fetchedBytes(asset(name));
  const [{ pyodide, snapshot }, network, primitives, database] = await Promise.all([
    loadPython(asset, site, root).then((loaded) => {
      phase(60, "Python runs; loading the node");
      return loaded;
    }),
    given ?? networkOf(site),
    createCrypto(),
    openDatabase(relayed.answered),
  ]);
  const rtc = port && network.rtc ? { port, stun: network.rtc.stun } : null;
  pyodide.registerJsModule("convergence_platform", primitives);
  pyodide.registerJsModule("convergence_shell", {
    listener,
    database,
    network,
    post,
    channels: createChannels(relayed, rtc),
    rtc: rtc !== null,
    settings: { settings, onMetered },
    restore,
    pipes: createPagePipes(relayed),
    timer: createTimer(relayed.tick),
    body: () => createBody(),
    tls: createTls(load),
    load,
    site,
    opened: performance.timeOrigin,
  });
  const boot = pyodide.pyimport("node_host");
  phase(75, "Looking for the network");
  host = await boot.start();
  boot.destroy();
  waiting.splice(0).forEach(command);
  if (snapshot)
    setTimeout(() => keepSnapshot(site, root, snapshot).catch((error) => console.warn(error.message)), SETTLED_MS);
}

/**
 * Python with the program imported, out of a snapshot where one is kept for this root hash.
 * @param {string} root "" where the origin's storage is not to be trusted with a snapshot.
 * @returns {Promise<{pyodide: object, snapshot: Uint8Array|null}>} `snapshot`: one that is not kept yet
 */
async function loadPython(asset, site, root) {
  // On a first visit the program's own code comes last, once every file was verified. Pyodide starts meanwhile.
  const code = awaitedLater(loadCode(asset));
  const kept = root ? await findSnapshot(site, root) : null;
  const _loadSnapshot = kept && awaitedLater(kept());
  const restored = kept && (await loadPyodide(asset, site, { _loadSnapshot }).catch(() => dropSnapshots(site)));
  const pyodide = restored || (await loadPyodide(asset, site, { _makeSnapshot: Boolean(root) }));
  pyodide.FS.writeFile("/app.zip", await code); // Python imports straight from it: nothing is unpacked
  if (restored) {
    restoredFor = site;
    pyodide.pyimport("random").seed(); // else it would give the same numbers after every start
    return { pyodide, snapshot: null };
  }
  pyodide.runPython(`
    import sys
    sys.path.insert(0, "/app.zip")
    import preload
  `);
  return { pyodide, snapshot: root ? pyodide.makeMemorySnapshot() : null };
}

/** Pyodide from our own files, each at the address that it has here. */
async function loadPyodide(asset, site, options) {
  // Pyodide tries importScripts, to see that this is a module's worker. Trusted Types would report that.
  self.importScripts = undefined;
  const createPyodideModule = awaitedLater(import(asset("pyodide/pyodide.asm.mjs")).then((module) => module.default));
  const module = await import(asset("pyodide/pyodide.mjs"));
  return module.loadPyodide({
    ...options,
    // Pyodide puts the name of its WebAssembly behind this; as a fragment, it changes nothing.
    indexURL: `${asset("pyodide/pyodide.asm.wasm")}#/`,
    createPyodideModule,
    stdLibURL: asset("pyodide/python_stdlib.zip"),
    lockFileContents: fetched(asset("pyodide/pyodide-lock.json"), (answer) => answer.json()),
    packageBaseUrl: site, // it lists no packages; without this, Pyodide would name another origin for them
    checkAPIVersion: true,
  });
}

/** @returns {Promise<Uint8Array>} the archive with the node's Python, sources and bytecode */
const loadCode = (asset) => fetchedBytes(asset("app.zip"));

/** A promise whose failure is reported where it is awaited, which may be later than it fails. */
function awaitedLater(promise) {
  promise.catch(() => {});
  return promise;
}

async function networkOf(site) {
  for (let tries = 1; ; tries++) {
    try {
      return readNetwork(await fetchNetwork(site));
    } catch ({ message }) {
      if (tries === NETWORK_TRIES) throw new Error(`the site does not say where its network is: ${message}`);
    }
    await new Promise((resolve) => setTimeout(resolve, NETWORK_PAUSE_MS));
  }
}

async function fetched(address, read) {
  const answer = await fetch(address, { signal: AbortSignal.timeout(FETCHED_WITHIN) }).catch(() => null);
  if (!answer?.ok) throw new Error(`the site did not give ${address} (${answer ? answer.status : "no answer"})`);
  return read(answer);
}

const fetchedBytes = async (address) => new Uint8Array(await fetched(address, (answer) => answer.arrayBuffer()));

function phase(percent, text) {
  self.postMessage({ type: "state", state: { phase: { percent, text } } });
}

/** @param {string} state JSON, so that one crossing carries it all */
function post(state) {
  self.postMessage({ type: "state", state: JSON.parse(state) });
}

/** One timer for the node; arming it again replaces the one before, a negative delay only takes it away. */
function createTimer(tick) {
  let armed = null;
  return (delay) => {
    clearTimeout(armed);
    armed = delay < 0 ? null : setTimeout(tick, delay);
  };
}

const PART = 1 << 20; // bytes that become one Blob: each costs a message to another process, however small it is

/** Gathers what an exit fetched; the browser keeps Blobs on disk when they grow. */
function createBody() {
  const parts = [];
  let loose = [];
  let size = 0;
  return {
    add(view) {
      loose.push(view);
      size += view.length;
      if (size < PART) return;
      parts.push(new Blob(loose));
      loose = [];
      size = 0;
    },
    blob: () => new Blob([...parts, ...loose], { type: "application/octet-stream" }),
  };
}

/** An error inside Python is a defect. It is reported, and does not end the worker. */
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
    self.postMessage({
      type: "reply",
      id,
      ok: false,
      message: "The node met an error of its own. Reload the page, then try again.",
    });
  }
}
