/**
 * The page.
 *
 * Does: check that this browser can run a node, have its code verified, join the profile's node (or start it, with a
 * bridge to WebRTC), hand states to the cards.
 * Does not: run Python, open a socket or a database; the worker does.
 */

import { watchNetwork } from "./bridge/network.js";
import { createBridge } from "./bridge/rtc.js";
import { assets } from "./code/assets.js";
import { Refused } from "./code/manifest.js";
import { accept, ask, pin, settle } from "./code/pin.js";
import { createChoices } from "./ui/choices.js";
import { drawCircuits } from "./ui/circuits.js";
import { codeCard } from "./ui/code.js";
import { byId } from "./ui/dom.js";
import { fetchCard } from "./ui/fetch.js";
import { getCard } from "./ui/get.js";
import { drawLinks } from "./ui/links.js";
import { showNetwork } from "./ui/network.js";
import { relayControls } from "./ui/relay.js";
import { shareCard } from "./ui/share.js";
import { notice, showStatus } from "./ui/status.js";
import { joinNode } from "./ui/tabs.js";
import { torControls } from "./ui/tor.js";
import { bytes, sentence } from "./ui/words.js";

const RUNS = 75; // percent of the start at which the node takes commands
const CHECKED = 55; // percent of a first start at which all of the program is here and verified
const LOOK_EVERY = 3_600_000; // ms between looks for another version while the page is open
const RUNNABLE = /^(worker\/worker|sw-[0-9a-f]{16})\.js$/;

const REPLACED =
  "This site tries to replace the program that keeps its code, under the very same name: no honest update does that. " +
  "What runs here goes on until you close this page. Do not enter anything after that or after a reload. Compare the " +
  "words under “This code” with somebody you trust, and start from the bookmarklet instead.";
const INSECURE =
  "Browsers allow a node only on pages that came over https, or from this very machine. Open the same page with " +
  "https:// in front of its address, or as http://localhost.";
const OUTDATED =
  "This browser lacks something that a node needs. Use a current Firefox, Chrome, Edge or Safari, and a normal (not " +
  "private) window.";
const NEEDED = ["WebAssembly", "Worker", "BroadcastChannel", "indexedDB"];

const EMPTY = {
  phase: { percent: 0, text: "Waiting for the page" },
  ready: false,
  seconds: 0,
  failed: "",
  trouble: null,
  warnings: [],
  identity: "",
  nodes: 0,
  epoch: null,
  circuits: [],
  links: [],
  bytes: { sent: 0, received: 0, relayed: 0 },
  relay: { on: false, why: "starting", reachable: false, circuits: 0, circuitsTotal: 0, streams: 0, bytes: 0 },
  settings: null,
  tor: { stage: "off", percent: 0, relays: 0, why: null },
  shares: [],
  transfers: [],
  fetches: [],
};

/** @returns {string} why no node can run here and what to do, or "" */
function problem() {
  if (!window.isSecureContext) return INSECURE;
  const has = NEEDED.every((name) => window[name]) && navigator.locks && crypto.subtle && Promise.withResolvers;
  return has ? "" : OUTDATED;
}

// What the bookmarklet verified and left here; on a page that the site gave, there is nothing.
const { files = null, network = null, site = new URL(".", document.baseURI).href } = globalThis.convergence ?? {};
const asset = assets(site, files);
const policy = window.trustedTypes?.createPolicy("convergence", { createScriptURL: asset });

/** The address of one of this page's workers: nothing else is turned into code. */
function runnable(name) {
  if (!RUNNABLE.test(name)) throw new Error(`${name} is no worker of this page`);
  return policy ? policy.createScriptURL(name) : asset(name);
}

let bridge = null; // to WebRTC, for the node's worker

/**
 * Starts the node's worker.
 * @param {object} settings What the person chose; see ui/choices.js.
 */
function startWorker(settings) {
  const worker = new Worker(runnable("worker/worker.js"), { type: "module", name: "convergence-node" });
  bridge = window.RTCPeerConnection ? createBridge() : null;
  const code = { site, files, network, root: keptAs };
  const message = { type: "start", port: bridge?.port ?? null, code, restore: true, ...settings };
  worker.postMessage(message, bridge ? [bridge.port] : []);
  watchNetwork(() => worker.postMessage({ type: "moved" }));
  return worker;
}

/** Ends it, and its WebRTC connections. */
function stopWorker(worker) {
  worker.terminate();
  bridge?.stop();
}

let keptAs = ""; // root hash of what the service worker verified; "" where it did not

/**
 * Has the code verified and kept, shows which it is, and looks for another version now and then.
 * @param {object} options
 * @param {(phase: {percent: number, text: string}) => void} options.progress
 * @param {(why: string) => void} options.refuse Something is not what it should be: nothing may run.
 * @returns {Promise<void>} when the node's worker may be started
 */
function verified({ progress, refuse }) {
  const card = codeCard({
    accept: (root, progress) => accept(root, runnable, progress),
    decline: (root) => ask("decline", { root }),
    setAutomatic: (on) => ask("automatic", { on }),
    look: () => ask("look"),
  });
  const told = (message) => {
    if (message.type === "switched") location.reload();
    else if (message.type === "refused") notice("refused", message.message);
    else card.told(message);
  };
  const run = async (ready) => {
    const running = await pin({
      address: runnable,
      ready,
      progress: (done, total) =>
        progress({
          percent: (CHECKED * done) / total,
          text: `Fetching and checking the program: ${bytes(done)} of ${bytes(total)}`,
        }),
      told,
      replaced: () => notice("replaced", REPLACED),
    });
    card.show(running);
    if (!running.status || running.status.phase === "fleeting") return;
    card.check();
    setInterval(() => card.check(), LOOK_EVERY);
  };
  return new Promise((resolve) => {
    const ready = (root) => {
      keptAs = root;
      resolve();
    };
    run(ready).catch((error) => {
      const why = error instanceof Refused ? ", because not everything is here as it was published" : "";
      refuse(`Nothing was started${why}. ${sentence(error.message)}`);
    });
  });
}

function start() {
  byId("outdated").remove();
  const why = problem();
  if (why) {
    byId("status").dataset.state = "failed";
    byId("status-text").textContent = "Cannot start";
    byId("starting").hidden = true;
    notice("failed", why);
    return;
  }
  let state = EMPTY;
  let role = null;
  let settled = false; // the node's first circuits stand, or it will not run
  let refused = false; // the code was not what it should be
  const circuits = drawCircuits(byId("circuits"));
  const links = drawLinks();
  const cards = [];
  const runs = () => state.phase.percent >= RUNS || state.failed;
  const show = () => {
    window.convergenceState = { ...state, role };
    showStatus(state, role, Boolean(files));
    circuits.update(state.circuits);
    links.update(state.links);
    showNetwork(state);
    choices.update(state);
    relay.update(state, role);
    tor.update(state);
    if (runs()) for (const line of document.querySelectorAll(".wait")) line.hidden = true;
    if ((state.ready || state.failed) && !settled) {
      settled = true;
      settle();
    }
    for (const update of cards) update();
  };
  const { command, leave } = joinNode({
    // Verified code takes no commands from other tabs of a site that nobody trusts, and gives them none.
    alone: Boolean(globalThis.convergence),
    until: verified({
      progress: (phase) => {
        if (role === "guest" || refused || state.phase.percent > CHECKED) return;
        state = { ...state, phase };
        show();
      },
      refuse: (failed) => {
        refused = true;
        leave(failed);
        state = { ...EMPTY, failed };
        show();
      },
    }),
    startWorker: () => startWorker(choices.message()),
    stopWorker,
    onState: (next) => {
      if (refused) return;
      state = { ...EMPTY, ...next };
      show();
    },
    onRole: (next) => {
      role = next;
      show();
    },
  });
  const choices = createChoices(command);
  const [relay, tor] = [relayControls(choices), torControls(choices)];
  // A card's commands. One that is given before the node runs waits for it, and the card says so.
  const patient = (card) => (name, args) => {
    byId(`${card}-wait`).hidden = runs();
    return command(name, args);
  };
  const [share, get, fetches] = [shareCard(patient("share")), getCard(patient("get")), fetchCard(patient("fetch"))];
  cards.push(
    () => share.update(state.shares),
    () => get.update(state.transfers),
    () => fetches.update(state.fetches),
  );
  // A page brought back from the back/forward cache has lost its lock and its worker.
  window.addEventListener("pageshow", (event) => event.persisted && location.reload());
  show();
}

start();
