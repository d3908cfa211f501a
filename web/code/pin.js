/**
 * The page's side of the service worker, which keeps this site's code as it was when it was accepted.
 *
 * Does: register the worker named in the manifest after comparing its bytes, have it gather and verify all files before
 * a node starts; ask it, and pass on what it tells; notice when the site replaces it.
 * Does not: show anything, or vouch for the page itself: on a first visit it is what the site sent.
 */

import { download } from "./gather.js";
import { MAX_MANIFEST, Refused, parseManifest, sha256 } from "./manifest.js";

const WORKER = /^sw-([0-9a-f]{16})\.js$/;
const PATIENCE = 60_000; // ms without a word until the worker counts as dead
const HEARTBEAT = 10_000; // ms between questions whether it lives; Firefox ends one that is asked nothing for half a minute
const SCOPE = new URL("./", document.baseURI).href;
const AGAIN = "convergence-again"; // in sessionStorage: this page was loaded again to come from the cache

/**
 * @typedef {object} Running
 * @property {string} root The root hash of what runs; "" when the site says none.
 * @property {string} version
 * @property {"cache"|"first"|"site"|"bookmarklet"} from "cache": page and files were verified before they ran; "first": the files were,
 *   and the page itself came with them; "site": nothing was kept.
 * @property {string} why Nothing is pinned, because of this.
 * @property {object|null} status What the worker says of itself; null without one.
 */

/**
 * @param {object} options
 * @param {(name: string) => string|TrustedScriptURL} options.address Of a file of this site that is to be run as a worker.
 * @param {(root: string) => void} options.ready The node's worker may be started: each file is verified before it is
 *   given, and the node's own code is given only when all are. Called with the root hash that is kept, or "".
 * @param {(done: number, total: number) => void} options.progress Bytes that were verified.
 * @param {(message: {type: string}) => void} options.told What the worker tells all pages.
 * @param {() => void} options.replaced The site tries to put another worker in the place of the pinned one.
 * @returns {Promise<Running>} once all files of what runs are verified, or no worker is to be had
 * @throws {Refused} saying which file is not what the list of files says: nothing may run then
 */
export async function pin({ address, ready, progress, told, replaced }) {
  const running = await pinned({ address, ready, progress, told, replaced });
  ready(running.status ? running.root : "");
  return running;
}

async function pinned({ address, ready, progress, told, replaced }) {
  if (globalThis.convergence) return { root: globalThis.convergence.root, version: globalThis.convergence.version, from: "bookmarklet", why: "", status: null };
  if (!navigator.serviceWorker) return unpinned("This browser, or this window of it, has no service workers.");
  const { serviceWorker: container } = navigator;
  container.addEventListener("message", ({ source, data }) => {
    if (source === own() && typeof data?.type === "string") told(data);
  });
  container.startMessages();

  const registration = await registered();
  const cached = own() !== null;
  if (cached) sessionStorage.removeItem(AGAIN);
  else if (registration?.active) await bypassed(registration);
  const watched = own() && registration;
  if (watched) watch(registration, replaced);

  let status = own() ? await ask("status") : { root: null };
  if (status.root && status.kept !== "no") {
    return { root: status.root, version: status.version, from: cached ? "cache" : "site", why: cached ? "" : "This page was loaded past the cache.", status };
  }
  const { bytes, manifest } = await offered();
  if (!own()) {
    const name = await checkedWorker(manifest.files);
    try {
      await register(address(name));
    } catch (error) {
      // A script that is none after all is the site's doing; SecurityError and others are a private window's.
      if (error instanceof TypeError) throw new Refused(`the file ${name}, as the site sent it once more, does not run as a service worker: ${error.message}`);
      return unpinned(`This browser does not let the page keep its code: ${error.message}`);
    }
    await controlled();
  }
  if (!watched) await registered().then((found) => found && watch(found, replaced));
  await ask("install", { manifest: bytes }, (done, total) => {
    ready(manifest.root);
    progress(done, total);
  });
  status = await ask("status");
  return { root: status.root, version: status.version, from: "first", why: "", status };
}

/** @returns {Promise<string>} the name of the manifest's worker, once its bytes were compared */
async function checkedWorker(files) {
  const name = workerOf([...files.keys()]);
  const { sha256: digest, size } = files.get(name);
  const bytes = await download(new URL(name, document.baseURI), size).catch((error) => {
    throw new Refused(`the file ${name}: ${error.message}`);
  });
  if ((await sha256(bytes)) !== digest || !digest.startsWith(WORKER.exec(name)[1])) {
    throw new Refused(`the file ${name}: its bytes are not the published ones (SHA-256 differs)`);
  }
  return name;
}

function workerOf(names) {
  const [name] = names.filter((file) => WORKER.test(file));
  if (!name) throw new Refused("the list of files names no service worker");
  return name;
}

/** The browser fetches it once more, by itself: what it then runs is for it alone to know (docs/threat-model.md). */
const register = (address) => navigator.serviceWorker.register(address, { updateViaCache: "none" });

/**
 * Asks the worker that controls this page. What takes long is watched: browsers end workers at any moment.
 * @param {string} type
 * @param {object} [values]
 * @param {(done: number, total: number) => void} [progress]
 * @returns {Promise<any>} Rejects with Refused for what must not run, else with an Error for people to read.
 */
export function ask(type, values = {}, progress = () => {}) {
  const { controller } = navigator.serviceWorker;
  return new Promise((resolve, reject) => {
    let heard = performance.now();
    let run = null; // which run of the worker has the question
    const beat = () => {
      if (performance.now() - heard > PATIENCE) return fail("The service worker does not answer. Reload the page to try again.");
      send(controller, { type: "status" }, (data) => {
        heard = performance.now();
        run ??= data.worker;
        if (data.worker && data.worker !== run) fail("The browser ended the service worker before it was done. Reload the page to go on.");
      });
    };
    const beating = setInterval(beat, HEARTBEAT);
    const end = (settle, value) => {
      clearInterval(beating);
      settle(value);
    };
    const fail = (message) => end(reject, new Error(message));
    beat();
    send(controller, { type, ...values }, (data) => {
      if (data.type === "progress") progress(data.done, data.total);
      else if (data.type === "done") end(resolve, data.value);
      else if (data.type === "refused") end(reject, new Refused(data.message));
      else fail(data.message);
    });
  });
}

/** @param {(data: object) => void} answered Is given each answer. */
function send(worker, message, answered) {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = ({ data }) => {
    if (data.type !== "progress") port1.close();
    answered(data);
  };
  worker.postMessage(message, [port2]);
}

/** The node runs: now the worker may write what it has not written yet. */
export function settle() {
  if (own()) ask("settle").catch(() => {});
}

/**
 * Accepts a version: its files are gathered and verified, then its worker takes over. All pages are told to reload.
 * @param {string} root
 * @param {(name: string) => string|TrustedScriptURL} address
 * @param {(done: number, total: number) => void} progress
 */
export async function accept(root, address, progress) {
  const name = workerOf(await ask("accept", { root }, progress));
  const { scriptURL } = navigator.serviceWorker.controller;
  const registration = await register(address(name));
  const next = registration.installing ?? registration.waiting;
  if (next && next.scriptURL !== scriptURL) await controlled(next);
  await ask("switch", { root });
}

async function offered() {
  const bytes = await download(new URL("manifest.json", document.baseURI), MAX_MANIFEST).catch((error) => {
    throw new Refused(`the list of files, manifest.json: ${error.message}`);
  });
  return { bytes, manifest: await parseManifest(bytes) };
}

const registered = async () => {
  const found = await navigator.serviceWorker.getRegistration(SCOPE).catch(() => null);
  return found?.scope === SCOPE ? found : null;
};

/** The worker of this folder that controls the page; one of a folder above it is none of ours. */
function own() {
  const controller = navigator.serviceWorker?.controller;
  return controller && new URL("./", controller.scriptURL).href === SCOPE ? controller : null;
}

/** Waits until the page has a worker, or this one. */
function controlled(worker = null) {
  return new Promise((resolve) => {
    const look = () => {
      if (!own() || (worker && own() !== worker)) return;
      navigator.serviceWorker.removeEventListener("controllerchange", look);
      resolve();
    };
    navigator.serviceWorker.addEventListener("controllerchange", look);
    look();
  });
}

/** The page came past its worker, as after a forced reload: once more, so that it comes from the cache; else as it is. */
async function bypassed(registration) {
  if (!sessionStorage.getItem(AGAIN)) {
    sessionStorage.setItem(AGAIN, "1");
    location.reload();
    await new Promise(() => {});
  }
  registration.active.postMessage({ type: "claim" }, [new MessageChannel().port2]);
  await controlled();
}

function watch(registration, replaced) {
  const { scriptURL } = registration.active ?? own();
  const look = () => {
    const next = registration.installing ?? registration.waiting;
    if (next && next.scriptURL === scriptURL) replaced();
  };
  registration.addEventListener("updatefound", look);
  look();
}

/** Straight from the site: what it says it runs, for what that is worth. */
async function unpinned(why) {
  const { manifest } = await offered().catch(() => ({ manifest: { root: "", version: "" } }));
  return { root: manifest.root, version: manifest.version, from: "site", why, status: null };
}
