/**
 * The page.
 *
 * Does: check that this browser can run a node, join the profile's node (or start it, with a bridge to WebRTC), hand
 * states to the cards.
 * Does not: run Python, open a socket or a database; the worker does.
 */

import { watchNetwork } from "./bridge/network.js";
import { createBridge } from "./bridge/rtc.js";
import { drawCircuits } from "./ui/circuits.js";
import { byId } from "./ui/dom.js";
import { fetchCard } from "./ui/fetch.js";
import { getCard } from "./ui/get.js";
import { drawLinks } from "./ui/links.js";
import { relayControls } from "./ui/relay.js";
import { shareCard } from "./ui/share.js";
import { notice, showStatus } from "./ui/status.js";
import { joinNode } from "./ui/tabs.js";

const RUNS = 75; // percent of the start at which the node takes commands

const EMPTY = {
  phase: { percent: 0, text: "Waiting for the page" },
  ready: false, seconds: 0, failed: "", trouble: "",
  identity: "", nodes: 0, circuits: [], links: [], bytes: { sent: 0, received: 0, relayed: 0 },
  relay: { on: false, why: "starting", reachable: false, circuits: 0, circuitsTotal: 0, streams: 0, bytes: 0 }, settings: null,
  shares: [], transfers: [], fetches: [],
};

/** @returns {string} why no node can run here and what to do, or "" */
function problem() {
  if (!window.isSecureContext) {
    return "Browsers allow a node only on pages that came over https, or from this very machine. Open the same page with https:// in front of its address, or as http://localhost.";
  }
  if (!window.WebAssembly || !window.Worker || !window.BroadcastChannel || !window.indexedDB || !navigator.locks || !crypto.subtle) {
    return "This browser lacks something that a node needs. Use a current Firefox, Chrome, Edge or Safari, and a normal (not private) window.";
  }
  return "";
}

/**
 * Starts the node's worker, from the only address that this page turns into code. Its WebRTC connections end with it.
 * @param {object} settings What it may do for others; see ui/relay.js.
 */
function startWorker(settings) {
  const address = new URL("worker/worker.js", document.baseURI).href;
  const policy = window.trustedTypes?.createPolicy("convergence", { createScriptURL: () => address });
  const worker = new Worker(policy ? policy.createScriptURL("") : address, { type: "module", name: "convergence-node" });
  const bridge = window.RTCPeerConnection ? createBridge() : null;
  worker.postMessage({ type: "start", port: bridge?.port ?? null, ...settings }, bridge ? [bridge.port] : []);
  worker.addEventListener("error", () => bridge?.stop());
  watchNetwork(() => worker.postMessage({ type: "moved" }));
  return worker;
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
  const circuits = drawCircuits(byId("circuits"));
  const links = drawLinks();
  const cards = [];
  const runs = () => state.phase.percent >= RUNS || state.failed;
  const show = () => {
    window.convergenceState = { ...state, role };
    showStatus(state, role);
    circuits.update(state.circuits);
    links.update(state.links);
    relay.update(state, role);
    if (runs()) document.querySelectorAll(".wait").forEach((line) => (line.hidden = true));
    cards.forEach((update) => update());
  };
  const { command } = joinNode({
    startWorker: () => startWorker(relay.message()),
    onState: (next) => {
      state = { ...EMPTY, ...next };
      show();
    },
    onRole: (next) => {
      role = next;
      show();
    },
  });
  const relay = relayControls(command);
  // A card's commands; what is asked before the node runs is carried out then, and the card says so.
  const patient = (card) => (name, args) => {
    byId(`${card}-wait`).hidden = runs();
    return command(name, args);
  };
  const [share, get, fetches] = [shareCard(patient("share")), getCard(patient("get")), fetchCard(patient("fetch"))];
  cards.push(() => share.update(state.shares), () => get.update(state.transfers), () => fetches.update(state.fetches));
  // A page brought back from the back/forward cache has lost its lock and its worker.
  window.addEventListener("pageshow", (event) => event.persisted && location.reload());
  show();
}

start();
