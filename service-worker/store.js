/**
 * What the service worker keeps, in Cache Storage: the files of the accepted manifest, and what it must remember.
 *
 * Does: write and read both, apart for each folder of an origin that has a worker; drop files of versions that are over.
 * Does not: trust what it reads: files and manifests are hashed by who asks for them.
 */

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

/** @returns {Promise<State>} as it was kept; the first one when there is none or it is damaged */
export async function loadState() {
  const kept = await keptDocument("state.json");
  try {
    const state = { ...FIRST, ...JSON.parse(new TextDecoder().decode(kept)) };
    return DIGEST.test(state.root) ? state : FIRST;
  } catch {
    return FIRST;
  }
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

/** @returns {Promise<Set<string>>} names of the files that are there */
export async function namesKept(root) {
  const cache = await caches.open(filesOf(root));
  return new Set((await cache.keys()).map(({ url }) => url.slice(self.registration.scope.length)));
}

/** Drops the files of all root hashes but this one. */
export async function dropOthers(root) {
  const old = (await caches.keys()).filter((name) => name.startsWith(OURS) && DIGEST.test(name.slice(OURS.length)) && name !== filesOf(root));
  await Promise.all(old.map((name) => caches.delete(name)));
  const state = await caches.open(STATE);
  const manifests = (await state.keys()).filter(({ url }) => DIGEST.test(url.slice(self.registration.scope.length)) && !url.endsWith(root));
  await Promise.all(manifests.map((request) => state.delete(request)));
}

const address = (name) => new URL(name, self.registration.scope);

async function read(cache, name) {
  const kept = await (await caches.open(cache)).match(address(name));
  return kept ? new Uint8Array(await kept.arrayBuffer()) : null;
}

async function write(cache, name, bytes) {
  await (await caches.open(cache)).put(address(name), new Response(bytes));
}
