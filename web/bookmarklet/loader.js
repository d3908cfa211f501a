/**
 * The bookmarklet's program: the one part of Convergence that no site serves, because the bookmark itself holds it. It
 * runs in the document that the bookmark puts in place of a page (document.html).
 *
 * Does: find the manifest with the root hash that the bookmark names, gather its files, compare every byte, and only
 * then start the node from them, under a policy that lets nothing else run; or say what was wrong with which mirror.
 * Does not: run, show or fall back to anything that was not verified.
 */

import { download, gather, KEPT, MAX_SOURCES } from "../code/gather.js";
import { compareVersions, MAX_MANIFEST, parseManifest, Refused, sha256 } from "../code/manifest.js";
import { fetchNetwork, readNetwork } from "../code/network.js";
import { openKept, remember, versionSeen } from "./kept.js";

const TYPES = {
  css: "text/css",
  js: "text/javascript",
  mjs: "text/javascript",
  svg: "image/svg+xml",
  wasm: "application/wasm",
};
const POLICY = [
  "default-src 'none'",
  "script-src blob: 'wasm-unsafe-eval'",
  "worker-src blob:",
  "connect-src blob: ws: wss:",
  "img-src blob: data:",
  "media-src blob:",
  "style-src blob:",
  "base-uri 'none'",
  "form-action 'none'",
  "require-trusted-types-for 'script'",
  "trusted-types convergence",
].join("; ");

const INSECURE =
  "Browsers allow a node only on pages that came over https, or from this very machine. Open such a page, best " +
  "open.html of a mirror, then click the bookmark there.";
const REACHABLE =
  "Another page opened this one, or holds it in a frame, and could reach into it. Open a new tab yourself, type the " +
  "address there, then click the bookmark.";

/** @type {{root: string, mirrors: string[], network: object|null, patience: number}} set in document.html */
const { root, mirrors, network, patience } = globalThis.bookmark;
let sources = []; // mirrors, the one of this page first

run().catch((error) => {
  if (!(error instanceof Refused)) console.error(error);
  const why = error instanceof Refused ? error.message : `The bookmark met an error of its own: ${error}`;
  say(
    "Convergence was not started",
    `${why}\nNothing was run. To try again, reload this page and click the bookmark once more.`,
  );
});

async function run() {
  const why = problem();
  if (why) throw new Refused(why);
  sources = [...new Set([new URL(".", location.href).href, ...mirrors])].slice(0, MAX_SOURCES);
  say("Checking the program", "Looking for the list of files.");
  const kept = await openKept();
  const { manifest, bytes, refusals } = await findManifest(kept);
  const seen = versionSeen();
  if (seen && compareVersions(manifest.version, seen) < 0) {
    throw new Refused(
      `This bookmark is of version ${manifest.version}, and version ${seen} ran in this browser before. Old versions ` +
        "can have faults that were found since, and somebody may want you to use them: take the newer bookmark. To " +
        "use the old one on purpose, use another browser profile.",
    );
  }
  const files = await gather(manifest, sources, {
    patience,
    have: (name) => kept.get(manifest.files.get(name).sha256),
    keep: (name, file) => kept.put(manifest.files.get(name).sha256, file),
    refused: (refusal) => refusals.push(refusal),
    progress: (done, total) =>
      say(
        "Checking the program",
        `${megabytes(done)} of ${megabytes(total)} MB are here and are what was published.`,
        done / total,
      ),
  });
  await kept.put(root, bytes);
  await kept.only(new Set([root, ...[...manifest.files.values()].map((file) => file.sha256)]));
  const found = network ? { site: network.url, network } : await findNetwork(refusals);
  remember(manifest.version);
  await start(files, { ...found, root, version: manifest.version, refusals });
}

/** @returns {string} why nothing verified can run here, and what to do; or "" */
function problem() {
  if (!isSecureContext || !location.protocol.startsWith("http")) return INSECURE;
  return opener || top !== window ? REACHABLE : "";
}

/** The manifest with the bookmark's root hash, from what is kept or the first mirror that has it. */
async function findManifest(kept) {
  const refusals = [];
  const offered = async (source, bytes) => {
    const digest = await sha256(bytes);
    if (digest === root) return { manifest: await parseManifest(bytes), bytes, refusals };
    refusals.push({ source, name: "manifest.json", why: await described(bytes, digest) });
  };
  const before = await kept.get(root);
  let found = before && (await offered(KEPT, before));
  for (const source of sources) {
    if (found) return found;
    try {
      found = await offered(source, await download(new URL("manifest.json", source), MAX_MANIFEST, { patience }));
    } catch (error) {
      refusals.push({ source, name: "manifest.json", why: error.message });
    }
  }
  if (found) return found;
  const where = mirrors.length ? "" : " It names no mirrors of its own: click it on the page open.html of one.";
  throw new Refused(`No mirror has the version that this bookmark names by its root hash ${root}.${where}`, refusals);
}

/** What is in a list of files that is not the bookmark's. */
async function described(bytes, digest) {
  const what = await parseManifest(bytes).then(
    ({ version }) => `version ${version}`,
    (error) => error.message,
  );
  return `another list of files, with the root hash ${digest} (${what})`;
}

/**
 * Which network to join, if the bookmark does not say: the one that a mirror names. That is no code, and nothing
 * vouches for it: a hostile mirror can lead to a network of its own.
 */
async function findNetwork(refusals) {
  for (const site of sources) {
    try {
      return { site, network: readNetwork(await fetchNetwork(site, { patience })) };
    } catch (error) {
      refusals.push({ source: site, name: "network.json", why: error.message });
    }
  }
  throw new Refused("The program is verified, but no mirror says which network to join.", refusals);
}

/** Puts the verified page in place of this one and runs its program. */
async function start(files, about) {
  const addresses = {};
  for (const [name, bytes] of files) {
    addresses[name] = URL.createObjectURL(new Blob([bytes], { type: TYPES[name.split(".").pop()] ?? "" }));
  }
  const page = new DOMParser().parseFromString(new TextDecoder().decode(files.get("index.html")), "text/html");
  // The page's own policy is for a page that a site gave.
  for (const element of page.querySelectorAll("script, meta[http-equiv]")) element.remove();
  for (const attribute of ["href", "src"]) {
    for (const element of page.querySelectorAll(`[${attribute}]`)) {
      const address = addresses[element.getAttribute(attribute)];
      if (address) element.setAttribute(attribute, address);
    }
  }
  const policy = document.createElement("meta");
  policy.httpEquiv = "Content-Security-Policy";
  policy.content = POLICY;
  document.head.replaceChildren(policy, ...page.head.children);
  document.body.replaceWith(page.body);
  globalThis.convergence = Object.freeze({ files: Object.freeze(addresses), ...about });
  await import(addresses["main.js"]);
}

const megabytes = (bytes) => (bytes / 1e6).toFixed(1);

/** Shows a title and a text, one paragraph a line, and how much is done. It replaces what was shown before. */
function say(title, text, part = null) {
  const element = (tag, values) => Object.assign(document.createElement(tag), values);
  const lines = text.split("\n").map((line) => element("p", { textContent: line }));
  document.querySelector("main").replaceChildren(element("h1", { textContent: title }), ...lines);
  if (part !== null) document.querySelector("main").append(element("progress", { value: part }));
}
