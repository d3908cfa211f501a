/**
 * What the bookmarklet, and the module for other pages, keep in this browser, under the origin of the page that they ran
 * on.
 *
 * Does: keep files by their SHA-256, so that a second start fetches nothing and a new version only what changed; the
 * newest version that ran here.
 * Does not: trust any of it. Other pages of this origin can write here, so the caller hashes what it reads.
 */

const CACHE = "convergence-bookmarklet";
const VERSION = "convergence-bookmarklet-version";

const address = (digest) => new URL(`/convergence-bookmarklet/${digest}`, location.origin).href;

/**
 * @param {string} [name] of the cache
 * @returns {Promise<{get: Function, put: Function, only: Function}>} without Cache Storage it keeps nothing
 */
export async function openKept(name = CACHE) {
  const cache = await globalThis.caches?.open(name).catch(() => null);
  return {
    /** @param {string} digest @returns {Promise<Uint8Array|null>} what lies there */
    async get(digest) {
      const body = await cache
        ?.match(address(digest))
        .then((answer) => answer?.arrayBuffer())
        .catch(() => null);
      return body ? new Uint8Array(body) : null;
    },
    /** @param {string} digest @param {Uint8Array} bytes Kept if the browser has room. */
    async put(digest, bytes) {
      await cache?.put(address(digest), new Response(bytes)).catch(() => {});
    },
    /** @param {Set<string>} digests All else is removed. */
    async only(digests) {
      const wanted = new Set([...digests].map(address));
      const kept = (await cache?.keys().catch(() => [])) ?? [];
      for (const { url } of kept) if (!wanted.has(url)) await cache.delete(url).catch(() => {});
    },
  };
}

/** @returns {string} the newest version that ran on this device, or "" where nothing is remembered */
export function versionSeen() {
  try {
    return localStorage.getItem(VERSION) ?? "";
  } catch {
    return "";
  }
}

/** @param {string} version It runs now. Without room to remember it, an older one is not noticed later. */
export function remember(version) {
  try {
    localStorage.setItem(VERSION, version);
  } catch {} // the storage is full; a site that filled it could also have deleted the version
}
