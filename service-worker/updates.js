/**
 * Another version in place of the pinned one.
 *
 * Does: look whether the site has one and what speaks for it; gather it when the page says so; switch; remember what
 * the user chose, and below which version a change is a roll-back.
 * Does not: accept a version by itself: the page asks for that, also where the user allowed it in advance.
 */

import { download, gather } from "../web/code/gather.js";
import { compareVersions, MAX_MANIFEST, parseManifest, Refused, sha256 } from "../web/code/manifest.js";
import { checkRelease, MAX_LOG, MAX_RELEASE } from "../web/code/release.js";
import { PATIENCE, pin, pinned, settle, site } from "./code.js";
import * as store from "./store.js";

const newer = (a, b) => (compareVersions(a, b) > 0 ? a : b);

/** Work that writes. If the browser cannot write, the error says so in words for people. */
const written = (work) =>
  store.inTurn(work).catch((error) => {
    if (error instanceof Refused) throw error;
    throw new Refused("This browser has no room for that. Free some space on this device, then try again.");
  });

/**
 * Asks the site for another version.
 * @returns {Promise<object>} `{kind: "unpinned"|"unreachable"|"current"|"broken"|"older"|"offered"}`;
 *   "unreachable" and "broken" with `message`; "older" and "offered" with `root`, `version`, `signers`, `needed`,
 *   `index`, `signed`, `why`; "offered" with `automatic` and `declined` too.
 */
export async function look() {
  const { kind, message, manifest, standing } = await offer();
  if (kind !== "older" && kind !== "offered") return { kind, message };
  const { root, version } = manifest;
  const { signers, needed, index, ok: signed, why } = standing;
  const { automatic, declined } = await store.loadState();
  return {
    kind,
    root,
    version,
    signers,
    needed,
    index,
    signed,
    why,
    automatic: signed && automatic,
    declined: declined === root,
  };
}

async function offer() {
  const trusted = await pinned();
  if (!trusted) return { kind: "unpinned" };
  let bytes, manifest;
  try {
    bytes = await download(new URL("manifest.json", site), MAX_MANIFEST, { patience: PATIENCE });
  } catch ({ message }) {
    return { kind: "unreachable", message };
  }
  try {
    manifest = await parseManifest(bytes);
  } catch ({ message }) {
    return { kind: "broken", message };
  }
  const { seen } = await store.loadState();
  const head = seen.size > 0 ? seen : null;
  const current = manifest.root === trusted.root;
  if (current && head) return { kind: "current" };
  const [release, log] = await Promise.all([optional("release.json", MAX_RELEASE), optional("releases.txt", MAX_LOG)]);
  const standing = await checkRelease({ manifestBytes: bytes, release, log, trusted, seen: head });
  const older = !current && (standing.older || compareVersions(manifest.version, seen.version) < 0);
  // If it cannot be remembered, the next look sees it again.
  if (standing.ok && !older) await remember(manifest.version, standing).catch(() => {});
  return { kind: current ? "current" : older ? "older" : "offered", trusted, bytes, manifest, standing };
}

const optional = (name, limit) => download(new URL(name, site), limit, { patience: PATIENCE }).catch(() => null);

/** From now on, a lower version or an earlier line of the log is a roll-back. */
const remember = (version, { head, index }) =>
  store.inTurn(async () => {
    const { seen: known } = await store.loadState();
    const seen = {
      ...known,
      ...(head.size > known.size ? head : {}),
      version: newer(version, known.version),
      index: Math.max(index, known.index),
    };
    if (JSON.stringify(seen) !== JSON.stringify(known)) await store.change({ seen });
  });

/**
 * Gathers the version that the site offers and the page accepted.
 * @param {string} root What the page showed: anything else that the site offers by now is refused.
 * @param {(done: number, total: number) => void} progress
 * @returns {Promise<string[]>} the names of its files
 */
export async function accept(root, progress) {
  settle(); // the first version is written before another one may take its place
  const { kind, trusted: before, bytes, manifest } = await offer();
  if (kind !== "offered" || manifest.root !== root) throw new Refused("The site no longer offers this version.");
  const kept = (name) =>
    before.files.get(name)?.sha256 === manifest.files.get(name).sha256 ? store.keptFile(before.root, name) : null;
  const files = await gather(manifest, [site], { progress, have: async (name) => kept(name)?.catch(() => null) });
  await written(async () => {
    const state = await store.loadState();
    if ([state.root, state.next].includes(root)) return; // another tab was faster
    if (state.root !== before.root) throw new Refused("Another tab took another version meanwhile. Reload the page.");
    await store.change({ next: null }); // whose files give way
    await store.keepVersion(root, bytes, files);
    await store.change({ next: root });
  });
  return [...files.keys()];
}

/**
 * Answers from the version that was gathered from now on. The caller has every page reload.
 * @param {string} root
 */
export async function switchTo(root) {
  await pinned();
  await written(async () => {
    const state = await store.loadState();
    const bytes = [state.root, state.next].includes(root) ? await store.keptDocument(root) : null;
    if (!bytes || (await sha256(bytes)) !== root) throw new Refused("This version was not gathered.");
    const manifest = await parseManifest(bytes);
    if (state.root !== root) {
      const seen = { ...state.seen, version: newer(manifest.version, state.seen.version) };
      await store.change({
        root,
        next: null,
        declined: null,
        automatic: state.automatic && manifest.threshold > 0,
        seen,
      });
    }
    pin(manifest);
  });
}

/** The user keeps what runs, and does not want this one. */
export const decline = (root) => choose(() => ({ declined: root }));

/** @param {boolean} on Whether versions that enough keys signed are accepted without asking. */
export const setAutomatic = (on) => choose(({ threshold }) => ({ automatic: on && threshold > 0 }));

async function choose(part) {
  const manifest = await pinned();
  if (!manifest) throw new Refused("No version is kept here. Reload the page.");
  await written(() => store.change(part(manifest)));
}
