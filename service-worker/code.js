/**
 * The code that the service worker answers for.
 *
 * Does: install the first version; give its files, each hashed whenever it is asked for; look for another version, gather
 * it when the page says so, and switch. What it is to remember is written first and true afterwards: browsers end a worker
 * at any moment.
 * Does not: answer requests or messages, or accept a version by itself: the page asks for that.
 */

import { download, gather } from "../web/code/gather.js";
import { MAX_MANIFEST, Refused, compareVersions, parseManifest, sha256 } from "../web/code/manifest.js";
import { MAX_LOG, MAX_RELEASE, checkRelease } from "../web/code/release.js";
import * as store from "./store.js";

const PATIENCE = 10; // seconds that the site may send nothing of the small documents
const WRITE_WITHIN = 10_000; // ms after the first version is here
const EARLY = /^(worker|pyodide)\//; // what a node's start needs first
const NODE = "app.zip"; // the node's own code
const NO_ROOM = "This browser has no room for another version. Free some space on this device, then try again.";
const NONE = "No version is kept here. Reload the page.";
const site = self.registration.scope;

/**
 * @typedef {object} Version A manifest (see parseManifest) and what became of it here. It was accepted.
 * @property {"writing"|"yes"|"no"} kept "yes": it is pinned. "no": this browser has no room, or no leave, to keep it; it
 *   stands for as long as this worker lives and nobody installs another one.
 * @property {Map<string, Uint8Array>} fresh Verified files that are not yet written.
 * @property {Promise<void>} written It is known whether it is kept.
 * @property {Set<string>} mended Names of files that were not what they should be, and were fetched again.
 */

/** @type {store.State} As it is kept; null before it was read. */
let state = null;
/** @type {Version} null before there is one */
let current = null;
/** The first version while it is gathered: {root, total, fresh, one: Map<string, PromiseWithResolvers>, whole: Promise, watchers}. */
let arriving = null;
/** To write takes time that the node's start needs: it waits until the page says that it runs, but not for long. */
export const calm = Promise.withResolvers();

/** Whether a version is accepted that no page may replace unasked. */
const stands = () => current !== null && current.kept !== "no";

const version = (manifest, kept, fresh = new Map()) => ({ ...manifest, kept, fresh, written: Promise.resolve(), mended: new Set() });

let loading = null;
/** Reads what was kept, once; where that failed, it is tried again for who asks next. */
function loaded() {
  loading ??= load().catch((error) => {
    loading = null;
    throw error;
  });
  return loading;
}

async function load() {
  const found = await store.loadState();
  if (found.root) current = version(await manifestOf(found.root), "yes");
  state = found;
}

/** The manifest that was accepted. If it is lost or changed here, only the very same bytes will do. */
async function manifestOf(root) {
  const kept = await store.keptDocument(root);
  if (kept && (await sha256(kept)) === root) return parseManifest(kept);
  const bytes = await download(new URL("manifest.json", site), MAX_MANIFEST, { patience: PATIENCE }).catch(({ message }) => {
    throw new Refused(`The list of files that you accepted is damaged here, and this site does not give it now: ${message}. Try again later.`);
  });
  if ((await sha256(bytes)) !== root) {
    throw new Refused("The list of files that you accepted is damaged here, and this site has another one. Use another mirror or the bookmarklet; to start anew with what this site has now, clear its data in your browser.");
  }
  await store.keepDocument(root, bytes).catch(() => {}); // then it is asked for once more
  return parseManifest(bytes);
}

let saving = Promise.resolve();
/** @param {Partial<store.State>} part @throws when it cannot be written: then nothing was changed */
function change(part) {
  const save = async () => {
    const next = { ...(await store.loadState()), ...part }; // a worker that took over may have written meanwhile
    await store.saveState(next);
    state = next;
  };
  saving = saving.then(save, save);
  return saving;
}

/** What the page shows. */
export async function status() {
  await loaded();
  if (!current) return { root: null };
  const { root, version, keys, threshold, kept, mended } = current;
  return { root, version, keys: keys.length, threshold, kept, mended: [...mended], automatic: state.automatic };
}

/** @param {() => Promise<void>} listener Is called when `status` gives something else than before. */
export const onChange = (listener) => {
  changed = listener;
};
let changed = async () => {};

/** Whether a file is a node's, which is never given unverified, and not the page's. */
const isNodes = (name) => EARLY.test(name) || name === NODE;

/**
 * What is to be answered for a file of this scope.
 * @param {string} name
 * @returns {Promise<Uint8Array|null|undefined>} verified bytes; null: there is no such file; undefined: what the site says
 * @throws {Refused} when neither cache nor site have it as it was published
 */
export async function give(name) {
  await loaded();
  if (arriving) {
    const { one, whole } = arriving;
    if (!one.has(name)) return isNodes(name) ? null : undefined;
    if (name === NODE) await whole; // the node's own code only when all is verified
    return one.get(name).promise;
  }
  if (isNodes(name)) {
    if (!current) throw new Refused(NONE);
  } else if (!stands()) return undefined;
  if (!current.files.has(name)) return null;
  if (name === "index.html") await fileOf("main.js"); // without it, the page could not say what is wrong
  return fileOf(name);
}

async function fileOf(name) {
  const { root, kept, fresh, files, mended } = current;
  const waiting = fresh.get(name);
  if (waiting) return waiting;
  const found = await gather({ files: new Map([[name, files.get(name)]]) }, [site], {
    have: () => store.keptFile(root, name).catch(() => null),
    keep: async (_, bytes) => {
      if (kept !== "yes") return;
      mended.add(name);
      await store.keepFile(root, name, bytes).catch(() => {}); // then it is fetched and verified once more
      changed();
    },
  });
  return found.get(name);
}

/**
 * The first version: what the site has. Resolves once all files are here and verified; they are written afterwards, and
 * only when all are written is the version pinned, so that a pinned one needs the site no more.
 * @param {Uint8Array} bytes manifest.json
 * @param {(done: number, total: number) => void} progress
 * @returns {Promise<{written: Promise<void>}>} `written`: it is known whether it is kept
 */
export async function install(bytes, progress) {
  await loaded();
  const wanted = await parseManifest(bytes);
  if (stands() && current.root !== wanted.root) throw new Refused("Another version is accepted here already. Reload the page.");
  if (stands()) return current;
  if (arriving && arriving.root !== wanted.root) throw new Refused("Another tab is fetching another version. Reload the page.");
  arriving ??= arrival(wanted);
  const mine = arriving;
  mine.watchers.push(progress);
  progress(0, mine.total); // tells the page that from now on files are given as they are verified
  try {
    await mine.whole;
    if (arriving === mine) {
      current = version(wanted, "writing", mine.fresh);
      current.written = write(current, bytes);
      setTimeout(calm.resolve, WRITE_WITHIN);
    }
  } finally {
    if (arriving === mine) arriving = null;
  }
  return current;
}

/** Files on their way: each may be used as soon as it is verified, see `give`. */
function arrival({ root, files }) {
  const fresh = new Map();
  const one = new Map([...files.keys()].map((name) => [name, Promise.withResolvers()]));
  const watchers = [];
  const order = [...files].sort(([a], [b]) => rank(a) - rank(b));
  const keep = async (name, bytes) => {
    fresh.set(name, bytes);
    one.get(name).resolve(bytes);
  };
  const progress = (done, total) => watchers.forEach((watcher) => watcher(done, total));
  const whole = gather({ files: new Map(order) }, [site], { keep, progress });
  whole.catch((error) => one.forEach(({ reject }) => reject(error)));
  one.forEach(({ promise }) => promise.catch(() => {})); // who asks is told
  const total = order.reduce((sum, [, { size }]) => sum + size, 0);
  return { root, total, fresh, one, whole, watchers };
}

/** What a start asks for first comes first. */
const ORDER = [/^worker\//, /\.wasm$/, /\.mjs$/, /^pyodide\//, /^app\.zip$/, /./];
const rank = (name) => ORDER.findIndex((kind) => kind.test(name));

/** Keeps the first version, all of it or nothing. */
async function write(first, bytes) {
  await calm.promise;
  const { root, fresh } = first;
  try {
    await store.keepDocument(root, bytes);
    for (const [name, file] of fresh) await store.keepFile(root, name, file);
    await change({ root, seen: { version: first.version, size: 0, root: "", index: -1 } });
    first.kept = "yes";
  } catch {
    first.kept = "no"; // QuotaExceededError, or a profile without storage
  }
  fresh.clear();
  await store.dropAllBut(first.kept === "yes" ? [root] : []).catch(() => {});
  await changed();
}

const newer = (a, b) => (compareVersions(a, b) > 0 ? a : b);

const seenHead = () => (state.seen.size > 0 ? state.seen : null);

/**
 * Asks the site for another version.
 * @returns {Promise<object>} `{kind: "unpinned"|"unreachable"|"current"|"broken"|"older"|"offered"}`; "unreachable" and "broken" with
 *   `message`; "older" and "offered" with `root`, `version`, `signers`, `needed`, `index`, `signed`, `why`; "offered" with
 *   `automatic` and `declined` too.
 */
export async function look() {
  const { kind, wanted, standing, message } = await offer();
  if (kind !== "older" && kind !== "offered") return { kind, message };
  const { signers, needed, index, ok: signed, why } = standing;
  const told = { kind, root: wanted.root, version: wanted.version, signers, needed, index, signed, why };
  return { ...told, automatic: signed && state.automatic, declined: state.declined === wanted.root };
}

async function offer() {
  await loaded();
  await current?.written;
  if (current?.kept !== "yes") return { kind: "unpinned" };
  let bytes, wanted;
  try {
    bytes = await download(new URL("manifest.json", site), MAX_MANIFEST, { patience: PATIENCE });
  } catch ({ message }) {
    return { kind: "unreachable", message };
  }
  try {
    wanted = await parseManifest(bytes);
  } catch ({ message }) {
    return { kind: "broken", message };
  }
  const isCurrent = wanted.root === current.root;
  if (isCurrent && seenHead()) return { kind: "current" };
  const [release, log] = await Promise.all([optional("release.json", MAX_RELEASE), optional("releases.txt", MAX_LOG)]);
  const standing = await checkRelease({ manifestBytes: bytes, release, log, trusted: current, seen: seenHead() });
  const older = !isCurrent && (standing.older || compareVersions(wanted.version, state.seen.version) < 0);
  if (standing.ok && !older) await remember(wanted.version, standing);
  return { kind: isCurrent ? "current" : older ? "older" : "offered", bytes, wanted, standing };
}

const optional = (name, limit) => download(new URL(name, site), limit, { patience: PATIENCE }).catch(() => null);

/** What is lower than this is a roll-back from now on. */
async function remember(version, { head, index }) {
  const known = state.seen;
  const seen = { version: newer(version, known.version), size: known.size, root: known.root, index: Math.max(index, known.index) };
  if (head.size > known.size) Object.assign(seen, head);
  if (JSON.stringify(seen) !== JSON.stringify(known)) await change({ seen }).catch(() => {}); // then it is seen anew next time
}

/**
 * Gathers the version that the site offers and the page accepted.
 * @param {string} root What the page showed: anything else that the site offers by now is refused.
 * @param {(done: number, total: number) => void} progress
 * @returns {Promise<string[]>} the names of its files
 */
export async function accept(root, progress) {
  calm.resolve(); // the first version is written before another one may take its place
  const { kind, bytes, wanted } = await offer();
  if (kind !== "offered" || wanted.root !== root) throw new Refused("The site no longer offers this version.");
  const { root: old, files: before } = current;
  await store.dropAllBut([old]);
  const files = await gather(wanted, [site], {
    progress,
    have: async (name) => (before.get(name)?.sha256 === wanted.files.get(name).sha256 ? store.keptFile(old, name).catch(() => null) : null),
  });
  try {
    await store.keepDocument(root, bytes);
    for (const [name, file] of files) await store.keepFile(root, name, file);
    await change({ next: root });
  } catch {
    await store.dropAllBut([old]).catch(() => {});
    throw new Refused(NO_ROOM);
  }
  return [...files.keys()];
}

/** Answers from the version that was gathered from now on. The caller has every page reload. */
export async function switchTo(root) {
  await loaded();
  if (root === current?.root) return;
  const kept = state.next === root && (await store.keptDocument(root));
  if (!kept || (await sha256(kept)) !== root) throw new Refused("This version was not gathered.");
  const manifest = await parseManifest(kept);
  const seen = { ...state.seen, version: newer(manifest.version, state.seen.version) };
  await change({ root, next: null, declined: null, automatic: state.automatic && manifest.threshold > 0, seen }).catch(() => {
    throw new Refused(NO_ROOM);
  });
  current = version(manifest, "yes");
  await store.dropAllBut([root]);
}

/** The user keeps what runs, and does not want this one. */
export const decline = (root) => choose({ declined: root });

/** @param {boolean} on Whether versions that enough keys signed are accepted without asking. */
export async function setAutomatic(on) {
  await loaded();
  await choose({ automatic: on && current?.threshold > 0 });
}

async function choose(part) {
  await loaded();
  if (current?.kept !== "yes") throw new Refused(NONE);
  await change(part).catch(() => {
    throw new Refused("This browser has no room to remember that. Free some space on this device, then try again.");
  });
}
