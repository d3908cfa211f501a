/**
 * What the service worker keeps, in Cache Storage: the files of the accepted manifest, and what it must remember.
 *
 * Does: write and read both, apart for each folder of an origin that has a worker; drop files of versions that are over.
 * Does not: trust what it reads: files and manifests are hashed by who asks for them.
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
 * @property {{version: string, size: number, root: string, index: number}|null} seen The newest version and head of the release
 *   log that were accepted or properly signed; `size` is 0 where no release log was seen.
 */

/** @type {State} */
const FIRST = { root: null, next: null, declined: null, automatic: false, seen: null };

/**
 * @returns {Promise<State>} as it was kept; the first one when there is none
 * @throws {Refused} when it is damaged: what was pinned cannot be known, so nothing may take its place unseen
 */
export async function loadState() {
  const kept = await keptDocument("state.json");
  if (!kept) return FIRST;
  const state = parsed(kept);
  if (!isState(state)) {
    throw new Refused("What this browser remembers of the version that you accepted is damaged. Use another mirror or the bookmarklet; to start anew with what this site has now, clear its data in your browser.");
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
  if (!isRoot(root) || ![next, declined].every((other) => other === null || isRoot(other)) || typeof automatic !== "boolean") return false;
  const { version, size, root: head, index } = seen ?? {};
  return typeof version === "string" && Number.isInteger(size) && Number.isInteger(index) && (size === 0 || isRoot(head));
}

/** @param {State} state */
export const saveState = (state) => keepDocument("state.json", new TextEncoder().encode(JSON.stringify(state)));

/** @returns {Promise<Uint8Array|null>} a small document that was kept: a manifest by its root hash, or network.json */
export const keptDocument = (name) => read(STATE, name);

/** @param {string} name @param {Uint8Array} bytes */
export const keepDocument = (name, bytes) => write(STATE, name, bytes);

/** @returns {Promise<Uint8Array|null>} */
export const keptFile = (root, name) => read(filesOf(root), name);

export const keepFile = (root, name, bytes) => write(filesOf(root), name, bytes);

/** Drops files and manifests of all root hashes but these. */
export async function dropAllBut(roots) {
  const spared = new Set(roots.map(filesOf));
  const old = (await caches.keys()).filter((name) => name.startsWith(OURS) && DIGEST.test(name.slice(OURS.length)) && !spared.has(name));
  await Promise.all(old.map((name) => caches.delete(name)));
  const cache = await caches.open(STATE);
  const nameOf = ({ url }) => url.slice(self.registration.scope.length);
  const manifests = (await cache.keys()).filter((request) => DIGEST.test(nameOf(request)) && !roots.includes(nameOf(request)));
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
