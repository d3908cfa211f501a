/**
 * What the bookmarklet keeps in this browser, under the origin of the page where it was used.
 *
 * Does: keep files by their SHA-256, so that a second start fetches nothing and a new version only what changed; the
 * newest version that ran here.
 * Does not: trust any of it: others of this origin can write here, so whoever takes a file out hashes it again.
 */

const CACHE = "convergence-bookmarklet";
const VERSION = "convergence-bookmarklet-version";

const address = (digest) => new URL(`/convergence-bookmarklet/${digest}`, location.origin).href;

/** @returns {Promise<{get: Function, put: Function, only: Function}>} a place that keeps nothing where the browser has none */
export async function openKept() {
  const cache = await globalThis.caches?.open(CACHE).catch(() => null);
  return {
    /** @param {string} digest @returns {Promise<Uint8Array|null>} what lies there */
    async get(digest) {
      const answer = await cache?.match(address(digest)).catch(() => null);
      return answer ? new Uint8Array(await answer.arrayBuffer()) : null;
    },
    /** @param {string} digest @param {Uint8Array} bytes Kept if the browser has room. */
    async put(digest, bytes) {
      await cache?.put(address(digest), new Response(bytes)).catch(() => {});
    },
    /** @param {Set<string>} digests All else is removed. */
    async only(digests) {
      const wanted = new Set([...digests].map(address));
      for (const { url } of (await cache?.keys()) ?? []) if (!wanted.has(url)) await cache.delete(url);
    },
  };
}

/** @returns {string} the newest version that ran on this device, or "" */
export const versionSeen = () => localStorage.getItem(VERSION) ?? "";

/** @param {string} version It runs now. */
export const remember = (version) => localStorage.setItem(VERSION, version);
