/**
 * The code that the service worker answers for.
 *
 * Does: install the first version; give its files, each hashed whenever it is asked for; look for another version, gather
 * it when the page says so, and switch.
 * Does not: answer requests or messages, or accept a version by itself: the page asks for that.
 */

import { download, gather } from "../web/code/gather.js";
import { MAX_MANIFEST, Refused, compareVersions, parseManifest, sha256 } from "../web/code/manifest.js";
import { MAX_LOG, MAX_RELEASE, checkRelease } from "../web/code/release.js";
import * as store from "./store.js";

const PATIENCE = 10; // seconds that the site may send nothing of the small documents
const WRITE_WITHIN = 10_000; // ms after the first version is here
const NO_ROOM = "This browser has no room for another version. Free some space on this device, then try again.";
const EARLY = /^(worker|pyodide)\//; // what a node's start needs first
const NODE = "app.zip"; // the node's own code
const site = self.registration.scope;

/** @type {store.State} */
let state = null;
let manifest = null; // of the accepted root; null before the first
/** @type {Map<string, Uint8Array>} verified files that are not yet written */
const fresh = new Map();
/** Names of files that were not what they should be, and were fetched again. */
export const mended = new Set();
/** The first version while it is gathered: {root, total, one: Map<string, PromiseWithResolvers>, whole: Promise, watchers}. */
let arriving = null;
/** To write takes time that the node's start needs: it waits until the page says that it runs, but not for long. */
const calm = Promise.withResolvers();
let room = true; // whether this browser takes the files that are to be kept
let lasting = true; // whether it takes what must be remembered for anything to be pinned

const loaded = (async () => {
  state = await store.loadState();
  if (!state.root) return;
  const kept = await store.keptDocument(state.root);
  manifest = await parseManifest(kept && (await sha256(kept)) === state.root ? kept : await manifestAgain());
})();
loaded.catch(() => {}); // who asks is told

/** The manifest was accepted and is lost or changed: only the very same bytes will do. */
async function manifestAgain() {
  const bytes = await download(new URL("manifest.json", site), MAX_MANIFEST, { patience: PATIENCE }).catch(() => null);
  if (!bytes || (await sha256(bytes)) !== state.root) {
    throw new Refused("The list of files that you accepted is damaged here, and this site no longer has it. Use another mirror or the bookmarklet; to start anew with what this site has now, clear its data in your browser.");
  }
  await keep(() => store.keepDocument(state.root, bytes));
  return bytes;
}

async function keep(write) {
  await write().catch(() => {
    room = false; // QuotaExceededError, or a profile without storage: it is fetched and verified each time
  });
}

/** @returns {Promise<void>} Where there is no room for the change it lasts for as long as this worker does. */
async function change(part) {
  state = { ...state, ...part };
  lasting = await store.saveState(state).then(() => true, () => false);
}

/** @returns {Promise<"none"|"arriving"|"installed">} whether a version was accepted, and requests are to be answered from it */
export async function stage() {
  await loaded;
  if (manifest) return "installed";
  return arriving ? "arriving" : "none";
}

/** Whether a file is a node's, which is never given unverified, and not the page's. */
export const isNodes = (name) => EARLY.test(name) || name === NODE;

/** What the page shows. */
export async function status() {
  await loaded;
  if (!manifest) return { root: null };
  const { root, version, keys, threshold } = manifest;
  return { root, version, keys: keys.length, threshold, automatic: state.automatic, mended: [...mended], room, lasting };
}

export const has = (name) => manifest.files.has(name);

/** @returns {Promise<Uint8Array>} a file of the accepted version. Throws Refused when neither cache nor site have it. */
export async function fileOf(name) {
  const waiting = fresh.get(name);
  if (waiting) return waiting;
  const files = await gather({ files: new Map([[name, manifest.files.get(name)]]) }, [site], {
    have: (name) => store.keptFile(manifest.root, name).catch(() => null),
    keep: (name, bytes) => {
      mended.add(name);
      return keep(() => store.keepFile(manifest.root, name, bytes));
    },
  });
  return files.get(name);
}

/**
 * The first version: what the site has. Resolves once all files are here and verified; they are written afterwards.
 * @param {Uint8Array} bytes manifest.json
 * @param {(done: number, total: number) => void} progress
 * @returns {Promise<{written: Promise<void>}>}
 */
export async function install(bytes, progress) {
  await loaded;
  const wanted = await parseManifest(bytes);
  if (manifest) {
    if (manifest.root === wanted.root) return { written: Promise.resolve() };
    throw new Refused("Another version is accepted here already. Reload the page.");
  }
  if (arriving && arriving.root !== wanted.root) throw new Refused("Another tab is fetching another version. Reload the page.");
  arriving ??= arrival(wanted);
  arriving.watchers.push(progress);
  progress(0, arriving.total); // tells the page that from now on files are given as they are verified
  try {
    await arriving.whole;
  } finally {
    arriving = null;
  }
  if (manifest) return { written: Promise.resolve() }; // another tab had asked for the same
  manifest = wanted;
  await keep(() => store.keepDocument(wanted.root, bytes));
  await change({ root: wanted.root, seen: { version: wanted.version, size: 0, root: "", index: -1 } });
  setTimeout(calm.resolve, WRITE_WITHIN);
  return { written: calm.promise.then(() => write(wanted.root)) };
}

/** Files on their way: each may be used as soon as it is verified, but the node's code only when all are. */
function arrival({ root, files }) {
  const one = new Map([...files.keys()].map((name) => [name, Promise.withResolvers()]));
  const watchers = [];
  const order = [...files].sort(([a], [b]) => rank(a) - rank(b));
  const keep = async (name, bytes) => {
    fresh.set(name, bytes);
    one.get(name).resolve(bytes);
  };
  const progress = (done, total) => watchers.forEach((watcher) => watcher(done, total));
  const whole = gather({ files: new Map(order) }, [site], { keep, progress });
  whole.catch((error) => {
    fresh.clear();
    one.forEach(({ reject }) => reject(error));
  });
  one.forEach(({ promise }) => promise.catch(() => {})); // who asks is told
  const total = order.reduce((sum, [, { size }]) => sum + size, 0);
  return { root, total, one, whole, watchers };
}

/** What a start asks for first comes first. */
const rank = (name) => (name.startsWith("worker/") ? 0 : isNodes(name) ? 1 : 2);

/** @returns {Promise<Uint8Array>|null} a file of the version that is being installed; null when it has none of that name */
export async function fileArriving(name) {
  const { one, whole } = arriving;
  if (name === NODE) await whole;
  return one.get(name)?.promise ?? null;
}

async function write(root) {
  for (const [name, bytes] of fresh) {
    await keep(() => store.keepFile(root, name, bytes));
    fresh.delete(name);
  }
  await store.dropOthers(root);
}

/** The page has time: writes what waits, or completes what was left out. @returns {Promise<boolean>} whether all is there */
export async function complete() {
  calm.resolve();
  if (!manifest || fresh.size) return false;
  const kept = await store.namesKept(manifest.root);
  for (const name of manifest.files.keys()) if (!kept.has(name)) await fileOf(name);
  return room;
}

const newer = (a, b) => (compareVersions(a, b) > 0 ? a : b);

const seenHead = () => (state.seen.size > 0 ? state.seen : null);

/**
 * Asks the site for another version.
 * @returns {Promise<object>} `{kind: "unreachable"|"current"|"broken"|"older"|"offered"}`, the latter two with `root`, `version`,
 *   `signers`, `needed`, `index`, `signed`, `why`; "offered" with `automatic` and `declined` too; "broken" with `message`.
 */
export async function look() {
  const { kind, wanted, standing, message } = await offer();
  if (kind === "unreachable" || kind === "current" || kind === "broken") return { kind, message };
  const { signers, needed, index, ok: signed, why } = standing;
  const told = { kind, root: wanted.root, version: wanted.version, signers, needed, index, signed, why };
  return { ...told, automatic: signed && state.automatic, declined: state.declined === wanted.root };
}

async function offer() {
  await loaded;
  let bytes, wanted;
  try {
    bytes = await download(new URL("manifest.json", site), MAX_MANIFEST, { patience: PATIENCE });
  } catch {
    return { kind: "unreachable" };
  }
  try {
    wanted = await parseManifest(bytes);
  } catch (error) {
    return { kind: "broken", message: error.message };
  }
  const current = wanted.root === manifest.root;
  if (current && seenHead()) return { kind: "current" };
  const [release, log] = await Promise.all([optional("release.json", MAX_RELEASE), optional("releases.txt", MAX_LOG)]);
  const standing = await checkRelease({ manifestBytes: bytes, release, log, trusted: manifest, seen: seenHead() });
  const older = !current && (standing.older || compareVersions(wanted.version, state.seen.version) < 0);
  if (standing.ok && !older) await remember(wanted.version, standing);
  return { kind: current ? "current" : older ? "older" : "offered", bytes, wanted, standing };
}

const optional = (name, limit) => download(new URL(name, site), limit, { patience: PATIENCE }).catch(() => null);

/** What is lower than this is a roll-back from now on. */
async function remember(version, { head, index }) {
  const known = state.seen;
  const seen = { version: newer(version, known.version), size: known.size, root: known.root, index: Math.max(index, known.index) };
  if (head.size > known.size) Object.assign(seen, head);
  if (JSON.stringify(seen) !== JSON.stringify(known)) await change({ seen });
}

/**
 * Gathers the version that the site offers and the page accepted.
 * @param {string} root What the page showed: anything else that the site offers by now is refused.
 * @param {(done: number, total: number) => void} progress
 * @returns {Promise<string[]>} the names of its files
 */
export async function accept(root, progress) {
  const { kind, bytes, wanted } = await offer();
  if (kind !== "offered" || wanted.root !== root) throw new Refused("The site no longer offers this version.");
  const files = await gather(wanted, [site], { progress, have: (name) => store.keptFile(manifest.root, name).catch(() => null) });
  await store.keepDocument(root, bytes).catch(() => {
    throw new Refused(NO_ROOM);
  });
  for (const [name, file] of files) await keep(() => store.keepFile(root, name, file));
  await change({ next: root });
  return [...files.keys()];
}

/** Answers from the version that was gathered from now on. The caller has every page reload. */
export async function switchTo(root) {
  await loaded;
  if (root === manifest.root) return;
  const kept = state.next === root && (await store.keptDocument(root));
  if (!kept || (await sha256(kept)) !== root) throw new Refused("This version was not gathered.");
  const wanted = await parseManifest(kept);
  const seen = { ...state.seen, version: newer(wanted.version, state.seen.version) };
  const before = state;
  await change({ root, next: null, declined: null, automatic: state.automatic && wanted.threshold > 0, seen });
  if (!lasting) { // the next start would look for what is dropped below
    state = before;
    throw new Refused(NO_ROOM);
  }
  manifest = wanted;
  mended.clear();
  await store.dropOthers(root);
}

/** The user keeps what runs, and does not want this one. */
export const decline = (root) => change({ declined: root });

/** @param {boolean} on Whether versions that enough keys signed are accepted without asking. */
export const setAutomatic = (on) => change({ automatic: on && manifest.threshold > 0 });
