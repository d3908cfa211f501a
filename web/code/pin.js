/**
 * The page's side of the service worker, which keeps this site's code as it was when it was accepted.
 *
 * Does: register the worker named in the manifest after comparing its bytes, have it gather and verify all files before
 * a node starts; ask it, and pass on what it tells; notice when the site replaces it.
 * Does not: show anything, or vouch for the page itself: on a first visit it is what the site sent.
 */

import { download } from "./gather.js";
import { MAX_MANIFEST, parseManifest, Refused, sha256 } from "./manifest.js";

const WORKER = /^sw-([0-9a-f]{16})\.js$/;
/** ms between questions whether the worker lives. Firefox ends a worker that is asked nothing for half a minute. */
const HEARTBEAT = 10_000;
const UNANSWERED = 6; // questions until it counts as dead
const MAX_RUNS = 4; // of the worker, that are asked the same
const IN_CHARGE_WITHIN = 60_000; // ms for the browser to put another worker in charge
const SCOPE = new URL("./", document.baseURI).href;
const AGAIN = "convergence-again"; // in sessionStorage: this page was loaded again to come from the cache

/**
 * @typedef {object} Running
 * @property {string} root The root hash of what runs; "" when the site says none.
 * @property {string} version
 * @property {"cache"|"first"|"site"|"bookmarklet"} from "cache": page and files were verified before they ran; "first":
 *   the files were, and the page itself came with them; "site": nothing was kept.
 * @property {string} why Nothing is pinned, because of this.
 * @property {object|null} status What the worker says of itself; null without one.
 */

/**
 * @param {object} options
 * @param {(name: string) => string|TrustedScriptURL} options.address Of a file of this site that is to run as a worker.
 * @param {(root: string) => void} options.ready The node's worker may be started: each file is verified before it is
 *   given, and the node's own code is given only when all are. Called with the root hash of what runs, or "" where
 *   nothing is verified.
 * @param {(done: number, total: number) => void} options.progress Bytes that were verified.
 * @param {(message: {type: string}) => void} options.told What the worker tells all pages.
 * @param {() => void} options.replaced The site tries to put another worker in the place of the pinned one.
 * @returns {Promise<Running>} once all files of what runs are verified, or it is clear that there will be no worker
 * @throws {Refused} saying which file is not what the list of files says: nothing may run then
 */
export async function pin({ address, ready, progress, told, replaced }) {
  const running = await pinned({ address, ready, progress, told, replaced });
  ready(running.status ? running.root : "");
  return running;
}

async function pinned({ address, ready, progress, told, replaced }) {
  if (globalThis.convergence)
    return {
      root: globalThis.convergence.root,
      version: globalThis.convergence.version,
      from: "bookmarklet",
      why: "",
      status: null,
    };
  if (!navigator.serviceWorker) return unpinned("This browser, or this window of it, has no service workers.");
  const { serviceWorker: container } = navigator;
  container.addEventListener("message", ({ source, data }) => {
    if (source === own() && typeof data?.type === "string") told(data);
  });
  container.startMessages();

  // On a first visit, the list of files comes while the browser looks for a worker.
  const early = own() ? null : offered();
  early?.catch(() => {}); // reported below
  const registration = await registered();
  const cached = own() !== null;
  if (cached) sessionStorage.removeItem(AGAIN);
  else if (registration?.active) await bypassed(registration);
  const watched = own() && registration;
  if (watched) watch(registration, replaced);

  const status = own() ? await ask("status") : { phase: "none" };
  if (status.phase === "pinned" || status.phase === "writing") {
    return {
      root: status.root,
      version: status.version,
      from: cached ? "cache" : "site",
      why: cached ? "" : "This page was loaded past the cache.",
      status,
    };
  }
  const { bytes, manifest } = await (early ?? offered());
  const name = workerOf([...manifest.files.keys()]);
  if (own()?.scriptURL !== new URL(name, SCOPE).href) {
    await checkWorker(name, manifest.files.get(name));
    try {
      await employ(address(name));
    } catch (error) {
      // The site causes a TypeError: its script is none. A private window causes SecurityError and others.
      if (error instanceof TypeError)
        throw new Refused(
          `the file ${name}, as the site sent it once more, does not run as a service worker: ${error.message}`,
        );
      if (error instanceof DOMException)
        return unpinned(`This browser does not let the page keep its code: ${error.message}`);
      throw error;
    }
  }
  if (!watched) await registered().then((found) => found && watch(found, replaced));
  const installed = await ask("install", { manifest: bytes }, (done, total) => {
    ready(manifest.root);
    progress(done, total);
  });
  return { root: installed.root, version: installed.version, from: "first", why: "", status: installed };
}

/** Compares the worker's bytes. */
async function checkWorker(name, { sha256: digest, size }) {
  const bytes = await download(new URL(name, SCOPE), size).catch((error) => {
    throw new Refused(`the file ${name}: ${error.message}`);
  });
  if ((await sha256(bytes)) !== digest || !digest.startsWith(WORKER.exec(name)[1])) {
    throw new Refused(`the file ${name}: its bytes are not the published ones (SHA-256 differs)`);
  }
}

function workerOf(names) {
  const [name] = names.filter((file) => WORKER.test(file));
  if (!name) throw new Refused("the list of files names no service worker");
  return name;
}

/**
 * Has this script control the page. The browser fetches the script once more, by itself, and no page can check what it
 * then runs (docs/threat-model.md).
 */
async function employ(address) {
  await navigator.serviceWorker.register(address, { updateViaCache: "none" });
  await inCharge(new URL(address, SCOPE).href);
}

function inCharge(scriptURL) {
  const container = navigator.serviceWorker;
  return new Promise((resolve, reject) => {
    const late = () =>
      reject(
        new Error(
          "The browser does not put the service worker in charge. Close other tabs of this site, then reload the page.",
        ),
      );
    const timer = setTimeout(late, IN_CHARGE_WITHIN);
    const look = () => {
      if (own()?.scriptURL !== scriptURL) return;
      clearTimeout(timer);
      container.removeEventListener("controllerchange", look);
      resolve();
    };
    container.addEventListener("controllerchange", look);
    look();
  });
}

/**
 * Asks the worker that controls this page. What takes long is watched, and asked again of its next run: browsers end
 * workers at any moment.
 * @param {string} type
 * @param {object} [values]
 * @param {(done: number, total: number) => void} [progress]
 * @returns {Promise<any>} Rejects with Refused for what must not run, else with an Error for people to read.
 */
export function ask(type, values = {}, progress = () => {}) {
  const { controller } = navigator.serviceWorker;
  return new Promise((resolve, reject) => {
    let unanswered = 0; // questions and not time: a machine that slept wakes up late, and has to ask first
    const takers = new Set(); // runs of the worker that have the question
    const end = (settle, value) => {
      clearInterval(beating);
      settle(value);
    };
    const question = () =>
      send(controller, { type, ...values }, (data) => {
        if (data.type === "taken") takers.add(data.worker);
        else if (data.type === "progress") progress(data.done, data.total);
        else if (data.type === "done") end(resolve, data.value);
        else end(reject, data.type === "refused" ? new Refused(data.message) : new Error(data.message));
      });
    const beat = () => {
      if (unanswered === UNANSWERED)
        return end(reject, new Error("The service worker does not answer. Reload the page to try again."));
      unanswered += 1;
      send(controller, { type: "status" }, ({ type, worker }) => {
        unanswered = 0;
        if (type !== "taken" || takers.has(worker)) return;
        if (takers.size === MAX_RUNS)
          end(
            reject,
            new Error(
              "The browser ended the service worker again and again before it was done. Reload the page to try again.",
            ),
          );
        else question();
      });
    };
    const beating = setInterval(beat, HEARTBEAT);
    question();
  });
}

/** @param {(data: object) => void} answered Is given each answer. */
function send(worker, message, answered) {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = ({ data }) => {
    if (!["taken", "progress"].includes(data.type)) port1.close();
    answered(data);
  };
  worker.postMessage(message, [port2]);
}

/** The node's first circuits stand: now the worker may write what it has not written yet. */
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
  await employ(address(workerOf(await ask("accept", { root }, progress))));
  await ask("switch", { root });
}

async function offered() {
  const bytes = await download(new URL("manifest.json", SCOPE), MAX_MANIFEST).catch((error) => {
    throw new Refused(`the list of files, manifest.json: ${error.message}`);
  });
  return { bytes, manifest: await parseManifest(bytes) };
}

const registered = async () => {
  const found = await navigator.serviceWorker.getRegistration(SCOPE).catch(() => null);
  return found?.scope === SCOPE ? found : null;
};

/** The worker of this folder that controls the page; the worker of a folder above is not ours. */
function own() {
  const controller = navigator.serviceWorker?.controller;
  return controller && new URL("./", controller.scriptURL).href === SCOPE ? controller : null;
}

/** The page did not come through its worker, as after a forced reload. So it is loaded once more. */
async function bypassed(registration) {
  if (!sessionStorage.getItem(AGAIN)) {
    sessionStorage.setItem(AGAIN, "1");
    location.reload();
    await new Promise(() => {});
  }
  registration.active.postMessage({ type: "claim" }, [new MessageChannel().port2]);
  await inCharge(registration.active.scriptURL);
}

function watch(registration, replaced) {
  const look = () => {
    const next = registration.installing ?? registration.waiting;
    if (next && next.scriptURL === own()?.scriptURL) replaced();
  };
  registration.addEventListener("updatefound", look);
  look();
}

/** Straight from the site: the version that it claims to be. */
async function unpinned(why) {
  const { manifest } = await offered().catch(() => ({ manifest: { root: "", version: "" } }));
  return { root: manifest.root, version: manifest.version, from: "site", why, status: null };
}
