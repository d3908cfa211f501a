/**
 * Python's memory as it was just after the program was imported, so that the next start need not do that again.
 *
 * Does: keep one snapshot for each site in Cache Storage, beside its digest; give it back only unchanged.
 * Does not: vouch for it as the manifest does for files: whoever can write this origin's storage can write a snapshot,
 * too. So the bookmarklet, which runs on origins that nobody trusts, uses none. A snapshot is taken before the node has
 * keys: no secret is in it.
 */

import { sha256 } from "../code/manifest.js";

const CACHE = "convergence-snapshots";
const DIGEST = "x-sha256";
const MAX_SNAPSHOT = 1 << 27; // bytes; one has 31 MB

const address = (site, root) => new URL(`snapshot/${root}`, site).href;

/**
 * @param {string} site Address of the site's folder.
 * @param {string} root Root hash of the code that it was made with.
 * @returns {Promise<(() => Promise<Uint8Array>)|null>} null when there is none; else reads it, which takes a while, and
 *   throws when it is damaged
 */
export async function findSnapshot(site, root) {
  try {
    const kept = await (await caches.open(CACHE)).match(address(site, root));
    return kept ? () => unchanged(kept) : null;
  } catch (error) {
    console.warn(`The snapshot cannot be used: ${error.message}`); // a start without it only takes longer
  }
  return null;
}

async function unchanged(kept) {
  const bytes = new Uint8Array(await kept.arrayBuffer());
  if (bytes.length <= MAX_SNAPSHOT && (await sha256(bytes)) === kept.headers.get(DIGEST)) return bytes;
  throw new Error("The snapshot is damaged.");
}

/** Keeps this one in place of the site's others. */
export async function keepSnapshot(site, root, bytes) {
  await dropSnapshots(site);
  await (await caches.open(CACHE)).put(
    address(site, root),
    new Response(bytes, { headers: { [DIGEST]: await sha256(bytes) } }),
  );
}

/** It never throws: a snapshot only saves time. */
export async function dropSnapshots(site) {
  try {
    const cache = await caches.open(CACHE);
    const own = (await cache.keys()).filter(({ url }) => url.startsWith(address(site, "")));
    await Promise.all(own.map((request) => cache.delete(request)));
  } catch (error) {
    console.warn(`A snapshot cannot be dropped: ${error.message}`);
  }
}
