/**
 * What the service worker keeps, in Cache Storage: the files of the accepted manifest, and what it must remember.
 *
 * Does: write and read both, separately for each folder of an origin that has a worker; drop the versions that
 * state.json no longer names, and only those.
 * Does not: trust what it reads. The caller hashes files and manifests.
 *
 * The worker of a later version reads what an earlier one wrote. So state.json may get new members, whose absence means
 * the earlier behaviour, and manifests of today's format must stay readable.
 */

import { Refused } from "../web/code/manifest.js";

const OURS = `convergence ${new URL(self.registration.scope).pathname} `;
const STATE = `${OURS}state`;
const filesOf = (root) => `${OURS}${root}`;
const DIGEST = /^[0-9a-f]{64}$/;

/**
 * @typedef {object} State
 * @property {string|null} root The accepted root hash.
 * @property {string|null} next One whose files are here, to be switched to.
 * @property {string|null} declined One that the user did not want.
 * @property {boolean} automatic Whether signed versions are accepted by themselves.
 * @property {{version: string, size: number, root: string, index: number}|null} seen The newest version, and the newest
 *   head of the release log, that were accepted or properly signed; `size` is 0 where no release log was seen.
 */

/** @type {State} */
const FIRST = { root: null, next: null, declined: null, automatic: false, seen: null };

/** Changes are made one after the other: tabs ask at the same time, and an older run of this worker may still live. */
export const inTurn = (work) => navigator.locks.request(STATE, work);

/**
 * @returns {Promise<State>} as it was kept; the first one when there is none
 * @throws {Refused} when it is damaged: what was pinned cannot be known, so nothing may take its place unnoticed
 */
export async function loadState() {
  const kept = await keptDocument("state.json");
  if (!kept) return FIRST;
  const state = parsed(kept);
  if (!isState(state)) {
    throw new Refused(
      "What this browser remembers of the version that you accepted is damaged. Use another mirror or the " +
        "bookmarklet; to start anew with what this site has now, clear its data in your browser.",
    );
  }
  return state;
}

function parsed(bytes) {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return null;
  }
}

function isState(value) {
  const { root, next, declined, automatic, seen } = value ?? {};
  const isRoot = (text) => typeof text === "string" && DIGEST.test(text);
  if (
    !isRoot(root) ||
    ![next, declined].every((other) => other === null || isRoot(other)) ||
    typeof automatic !== "boolean"
  )
    return false;
  const { version, size, root: head, index } = seen ?? {};
  return (
    typeof version === "string" && Number.isInteger(size) && Number.isInteger(index) && (size === 0 || isRoot(head))
  );
}

/** In turn. @param {Partial<State>} part @throws when it cannot be written: then nothing was changed */
export async function change(part) {
  const next = { ...(await loadState()), ...part };
  if (!next.root) throw new Refused("What was kept here is gone. Reload the page.");
  await keepDocument("state.json", new TextEncoder().encode(JSON.stringify(next)));
  await drop((root) => root !== next.root && root !== next.next).catch(() => {}); // else the next change does it
}

/**
 * In turn.
 * @param {string} root @param {Uint8Array} manifest @param {Map<string, Uint8Array>} files
 * @throws when there is no room: then nothing of it is kept
 */
export async function keepVersion(root, manifest, files) {
  try {
    await keepDocument(root, manifest);
    for (const [name, bytes] of files) await keepFile(root, name, bytes);
  } catch (error) {
    await drop((other) => other === root).catch(() => {});
    throw error;
  }
}

/** @returns {Promise<Uint8Array|null>} a small document that was kept: a manifest by its root hash, or network.json */
export const keptDocument = (name) => read(STATE, name);

/** @param {string} name @param {Uint8Array} bytes */
export const keepDocument = (name, bytes) => write(STATE, name, bytes);

/** @returns {Promise<Uint8Array|null>} */
export const keptFile = (root, name) => read(filesOf(root), name);

export const keepFile = (root, name, bytes) => write(filesOf(root), name, bytes);

/** Drops files and manifests. @param {(root: string) => boolean} unwanted */
async function drop(unwanted) {
  const isUnwanted = (name) => DIGEST.test(name) && unwanted(name);
  const old = (await caches.keys()).filter((name) => name.startsWith(OURS) && isUnwanted(name.slice(OURS.length)));
  await Promise.all(old.map((name) => caches.delete(name)));
  const cache = await caches.open(STATE);
  const manifests = (await cache.keys()).filter(({ url }) => isUnwanted(url.slice(self.registration.scope.length)));
  await Promise.all(manifests.map((request) => cache.delete(request)));
}

const address = (name) => new URL(name, self.registration.scope);

async function read(cache, name) {
  const kept = await (await caches.open(cache)).match(address(name));
  return kept ? new Uint8Array(await kept.arrayBuffer()) : null;
}

async function write(cache, name, bytes) {
  await (await caches.open(cache)).put(address(name), new Response(bytes));
}
