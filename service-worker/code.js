/**
 * The code that the service worker answers for, from the first visit on.
 *
 * Does: install the first version; give files, and hash each one whenever it is asked for; say how it stands. A browser
 * may end a worker at any moment, so a new state is written first and holds only then.
 * Does not: take another version in its place (updates.js), answer requests or messages (sw.js).
 *
 *     none -> arriving -> writing -> pinned       (updates.js: pinned -> pinned)
 *      ^         |            \----> fleeting -> arriving
 *      \---------/ refused
 */

import { download, gather } from "../web/code/gather.js";
import { MAX_MANIFEST, parseManifest, Refused, sha256 } from "../web/code/manifest.js";
import * as store from "./store.js";

export const PATIENCE = 10; // seconds that the site may stay silent while it sends a small document
export const site = self.registration.scope;
const WRITE_WITHIN = 10_000; // ms after the first version is here
const NODE = "app.zip"; // the node's own code
/** What a start needs, the longest work first: the browser compiles one file while the next comes. */
const ORDER = [/^worker\//, /\.wasm$/, /\.mjs$/, /^pyodide\//, /^app\.zip$/, /./];
/** Of these, the node's: they are never given unverified. */
const isNodes = (name) => rank(name) < ORDER.length - 1;
const rank = (name) => ORDER.findIndex((kind) => kind.test(name));

/**
 * @typedef {Awaited<ReturnType<typeof parseManifest>>} Manifest
 * @typedef {{phase: "none"}} None Nothing was accepted.
 * @typedef {{phase: "arriving", manifest: Manifest, files: Map<string, PromiseWithResolvers<Uint8Array>>,
 *   complete: Promise<Map<string, Uint8Array>>, watchers: Function[], total: number}} Arriving
 *   The first version is on its way. Each of its files may be used as soon as it is verified.
 * @typedef {{phase: "writing", manifest: Manifest, files: Map<string, Uint8Array>, written: Promise<void>}} Writing
 *   The first version runs, and is being written.
 * @typedef {{phase: "pinned", manifest: Manifest, mended: Set<string>}} Pinned
 *   All of it is kept, and nothing replaces it without consent. `mended`: names of damaged files, fetched again.
 * @typedef {{phase: "fleeting", manifest: Manifest}} Fleeting
 *   This browser does not keep it. A node that runs goes on with it; the next page makes a first visit.
 */

/** @type {None|Arriving|Writing|Pinned|Fleeting} */
let now = { phase: "none" };
let loading = null;
/** Writing takes time that the node's start needs. So it waits until the page says that circuits stand. */
const calm = Promise.withResolvers();
export const settle = () => calm.resolve();

/** @param {() => Promise<void>} listener Is called when `status` gives something else than before. */
export const onChange = (listener) => {
  notify = () => listener().catch(() => {}); // a page that misses it asks for the status
};
let notify = async () => {};

/** Reads what was kept, once. If that fails, the next request tries again. */
function loaded() {
  loading ??= load().catch((error) => {
    loading = null;
    throw error;
  });
  return loading;
}

async function load() {
  const { root } = await store.loadState();
  if (root) pin(await manifestOf(root));
}

/** @param {Manifest} manifest Its files are kept, and state.json names it. */
export const pin = (manifest) => {
  now = { phase: "pinned", manifest, mended: new Set() };
};

/** @returns {Promise<Manifest|null>} the pinned one, or null; it waits while the first version is being written */
export async function pinned() {
  await loaded();
  if (now.phase === "writing") await now.written;
  return now.phase === "pinned" ? now.manifest : null;
}

/** The manifest that was accepted. If it was lost or changed here, the site must give the same bytes again. */
async function manifestOf(root) {
  const kept = await store.keptDocument(root);
  if (kept && (await sha256(kept)) === root) return parseManifest(kept);
  const bytes = await download(new URL("manifest.json", site), MAX_MANIFEST, { patience: PATIENCE }).catch(
    ({ message }) => {
      throw new Refused(
        "The list of files that you accepted is damaged here, and this site does not give it now: " +
          `${message}. Try again later.`,
      );
    },
  );
  if ((await sha256(bytes)) !== root) {
    throw new Refused(
      "The list of files that you accepted is damaged here, and this site has another one. Use another mirror or the " +
        "bookmarklet; to start anew with what this site has now, clear its data in your browser.",
    );
  }
  await store.keepDocument(root, bytes).catch(() => {}); // if it cannot be kept, the next start fetches it again
  return parseManifest(bytes);
}

/** What the page shows. `phase` is "none", "writing", "pinned" or "fleeting"; with "none" nothing else is given. */
export async function status() {
  await loaded();
  if (now.phase === "none" || now.phase === "arriving") return { phase: "none" };
  const { phase, manifest, mended = [] } = now;
  const { root, version, keys, threshold } = manifest;
  const { automatic } = await store.loadState();
  return { phase, root, version, keys: keys.length, threshold, automatic, mended: [...mended] };
}

/**
 * What is to be answered for a file of this scope.
 * @param {string} name
 * @returns {Promise<Uint8Array|null|undefined>} verified bytes; null: there is no such file; undefined: ask the site
 * @throws {Refused} when neither cache nor site have it as it was published
 */
export async function give(name) {
  await loaded();
  const { phase, manifest, files, complete } = now;
  if (phase === "none" && isNodes(name)) throw new Refused("No version is kept here. Reload the page.");
  if (phase === "none" || (phase === "fleeting" && !isNodes(name))) return undefined;
  if (!manifest.files.has(name)) return phase === "arriving" && !isNodes(name) ? undefined : null;
  if (phase === "arriving") {
    if (name === NODE) await complete; // only when all is verified
    return files.get(name).promise;
  }
  if (phase === "writing") return files.get(name);
  if (name === "index.html") await verified("main.js"); // without it, the page could not say what is wrong
  return verified(name);
}

/** A file of the version that runs, from the cache or else from the site. */
async function verified(name) {
  const { phase, manifest, mended } = now;
  const found = await gather({ files: new Map([[name, manifest.files.get(name)]]) }, [site], {
    have: () => store.keptFile(manifest.root, name).catch(() => null),
    keep: async (_, bytes) => {
      if (phase !== "pinned") return;
      mended.add(name);
      await store.keepFile(manifest.root, name, bytes).catch(() => {}); // if it cannot be kept, it is fetched each time
      notify();
    },
  });
  return found.get(name);
}

/**
 * The first version: what the site has. Resolves once all files are here and verified.
 * @param {Uint8Array} bytes manifest.json
 * @param {(done: number, total: number) => void} progress
 * @returns {Promise<{written: Promise<void>|undefined}>} `written` resolves when the version is kept, or cannot be
 */
export async function install(bytes, progress) {
  await loaded();
  const manifest = await parseManifest(bytes);
  const same = now.manifest?.root === manifest.root;
  if (now.phase === "pinned" || now.phase === "writing") {
    if (!same) throw new Refused("Another version is accepted here already. Reload the page.");
    return { written: now.written };
  }
  if (now.phase === "arriving" && !same) throw new Refused("Another tab is fetching another version. Reload the page.");
  if (now.phase !== "arriving") now = arrival(manifest);
  const mine = now;
  mine.watchers.push(progress);
  progress(0, mine.total); // tells the page that from now on files are given as they are verified
  try {
    const files = await mine.complete;
    if (now !== mine) return { written: now.written }; // another tab had asked for the same, and was told first
    now = { phase: "writing", manifest, files };
    now.written = write(now, bytes);
    setTimeout(settle, WRITE_WITHIN);
    return { written: now.written };
  } catch (error) {
    if (now === mine) now = { phase: "none" };
    throw error;
  }
}

/** @returns {Arriving} */
function arrival(manifest) {
  const files = new Map([...manifest.files.keys()].map((name) => [name, Promise.withResolvers()]));
  const order = [...manifest.files].sort(([a], [b]) => rank(a) - rank(b));
  const watchers = [];
  const complete = gather({ files: new Map(order) }, [site], {
    keep: async (name, bytes) => files.get(name).resolve(bytes),
    progress: (done, total) => {
      for (const watcher of watchers) watcher(done, total);
    },
  });
  complete.catch((error) => {
    for (const { reject } of files.values()) reject(error);
  });
  for (const { promise } of files.values()) promise.catch(() => {}); // whoever asks for the file gets the error
  const total = order.reduce((sum, [, { size }]) => sum + size, 0);
  return { phase: "arriving", manifest, files, complete, watchers, total };
}

/** Keeps the first version: all of it, since a pinned version needs no site, or nothing. @param {Writing} writing */
async function write({ manifest, files }, bytes) {
  await calm.promise;
  const { root, version } = manifest;
  try {
    await store.inTurn(async () => {
      if ((await store.loadState()).root) throw new Error("another run of this worker was faster");
      await store.keepVersion(root, bytes, files);
      await store.change({ root, seen: { version, size: 0, root: "", index: -1 } });
    });
    pin(manifest);
  } catch {
    now = { phase: "fleeting", manifest }; // QuotaExceededError, or a profile without storage
  }
  await notify();
}
