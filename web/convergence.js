/**
 * Convergence for any page: `import { join } from ".../convergence.js"`. What it offers: convergence.d.ts and
 * docs/javascript.md.
 *
 * Does: find the list of files with the root hash that the page gives, gather what a node runs of it, compare every byte,
 * and only then start the node from these bytes.
 * Does not: leave anything in the page's global scope, or run, or fall back to, anything that was not verified. Itself it
 * cannot verify: the page does, by `integrity`.
 */

import { ConvergenceError, EndReason } from "./api/errors.js";
import { Node } from "./api/node.js";
import { openKept } from "./bookmarklet/kept.js";
import { download, gather, MAX_SOURCES } from "./code/gather.js";
import { MAX_MANIFEST, parseManifest, Refused, sha256 } from "./code/manifest.js";
import { fetchNetwork, readNetwork } from "./code/network.js";

export { ConvergenceError, EndReason };

const CACHE = "convergence-module";
const ROOT = /^[0-9a-f]{64}$/;
const RUN = /^(worker\/|pyodide\/|app\.zip$)/; // what a node runs, of all that is published
const SCRIPT = /\.m?js$/;
const INSECURE = "Browsers allow a node only on pages that came over https, or from this very machine.";
const OUTDATED = "This browser lacks something that a node needs.";
const NEEDED = ["WebAssembly", "Worker", "indexedDB", "WritableStream"];

/**
 * Joins the network. See convergence.d.ts.
 * @returns {Promise<Node>}
 */
export async function join({ root, mirrors = [], network, relay = false, hops = 2, signal } = {}) {
  signal?.throwIfAborted();
  const given = [...mirrors].map((mirror) => new URL(mirror, document.baseURI).href);
  const sources = given.length ? given.slice(0, MAX_SOURCES) : [new URL(".", import.meta.url).href];
  check(root);
  try {
    const files = await verified(sources, root);
    signal?.throwIfAborted();
    const { site, found } = network ? inForm(network, sources[0]) : await networkOf(sources);
    const type = (name) => (name.endsWith(".wasm") ? "application/wasm" : SCRIPT.test(name) ? "text/javascript" : "");
    const addresses = Object.fromEntries(
      [...files].map(([name, bytes]) => [name, URL.createObjectURL(new Blob([bytes], { type: type(name) }))]),
    );
    const node = new Node(
      addresses["worker/worker.js"],
      { site, files: addresses, network: found, root: "" },
      { relay, hops },
    );
    node.closed.catch(() => {}).finally(() => Object.values(addresses).forEach(URL.revokeObjectURL));
    const stop = () => node.close();
    signal?.addEventListener("abort", stop);
    await node.started
      .finally(() => signal?.removeEventListener("abort", stop))
      .catch((error) => {
        throw signal?.aborted ? signal.reason : error;
      });
    return node;
  } catch (error) {
    throw error instanceof Refused ? new ConvergenceError("refused", `Nothing was run. ${error.message}`) : error;
  }
}

function check(root) {
  if (root !== undefined && !ROOT.test(root))
    throw new ConvergenceError("root", "This is no root hash: it has 64 digits and letters from a to f.");
  if (!isSecureContext) throw new ConvergenceError("insecure", INSECURE);
  const has = NEEDED.every((name) => globalThis[name]) && crypto.subtle && Promise.withResolvers;
  if (!has) throw new ConvergenceError("outdated", OUTDATED);
}

/** @returns {Promise<Map<string, Uint8Array>>} what a node runs */
async function verified(sources, root) {
  const kept = await openKept(CACHE);
  const listed = (await kept.get(root)) ?? new Uint8Array();
  const manifest = await parseManifest((await sha256(listed)) === root ? listed : await findManifest(sources, root));
  const wanted = new Map([...manifest.files].filter(([name]) => RUN.test(name)));
  const digest = (name) => wanted.get(name).sha256;
  const files = await gather({ files: wanted }, sources, {
    have: (name) => kept.get(digest(name)),
    keep: (name, bytes) => kept.put(digest(name), bytes),
  });
  await kept.only(new Set([...wanted.keys()].map(digest)));
  return files;
}

/** The list with this root hash; without one, that of the first source that has any. */
async function findManifest(sources, root) {
  const refusals = [];
  const refuse = (source, why) => refusals.push({ source, name: "manifest.json", why });
  for (const source of sources) {
    try {
      const bytes = await download(new URL("manifest.json", source), MAX_MANIFEST);
      const digest = await sha256(bytes);
      if (!root || digest === root) return bytes;
      refuse(source, `another list of files, with the root hash ${digest}`);
    } catch (error) {
      refuse(source, error.message);
    }
  }
  throw new Refused(root ? `No mirror has the version with the root hash ${root}.` : "No mirror answers.", refusals);
}

/** The network that the page names, and what paths in it are relative to. */
const inForm = (network, source) => ({
  site: network.url ?? source,
  found: readNetwork(new TextEncoder().encode(JSON.stringify(network))),
});

/** Which network to join. That is no code, and nothing vouches for it. */
async function networkOf(sources) {
  const refusals = [];
  for (const site of sources) {
    try {
      return { site, found: readNetwork(await fetchNetwork(site)) };
    } catch (error) {
      refusals.push({ source: site, name: "network.json", why: error.message });
    }
  }
  throw new Refused("No mirror says which network to join.", refusals);
}
