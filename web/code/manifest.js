/**
 * The manifest: the list of every file that a browser runs, whose own SHA-256 is the root hash.
 *
 * Does: read manifest.json, format 2, from bytes of anyone; hash; compare versions.
 * Does not: fetch, keep, or decide which root hash to trust.
 */

export const MAX_MANIFEST = 256 * 1024; // bytes
/** They may lie beside the files, and no manifest lists them. */
const UNLISTED = ["manifest.json", "release.json", "releases.txt", "network.json"];
const PACKED = /\.(br|gz)$/; // a server may send such a file in place of the one without the ending
const MAX_FILES = 1000;
const MAX_NAME = 200; // characters
const MAX_FILE = 64 << 20; // bytes
const MAX_ALL = 256 << 20; // bytes
const MAX_KEYS = 16;
const KEY_AT = 10; // of a minisign public key: "Ed", 8 bytes that name it, 32 bytes of Ed25519

const NAME = /^[A-Za-z0-9_-][A-Za-z0-9._-]*(\/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$/;
const DIGEST = /^[0-9a-f]{64}$/;
const VERSION = /^(0|[1-9]\d{0,8})(\.(0|[1-9]\d{0,8})){0,3}$/;
const KEY = /^RW[Q-T][A-Za-z0-9+/]{53}$/; // base64 of 42 bytes that begin with "Ed"

// The y of all Ed25519 points of small order, and the second encodings of 0 and 1. With such a key WebCrypto accepts
// signatures that anybody can make. A key that is not on the curve never verifies; pynode refuses it.
const P = (1n << 255n) - 19n;
const Y8 = 0x05fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826n;
const SMALL_ORDER = new Set([0n, 1n, P - 1n, P, P + 1n, Y8, P - Y8]);

/** What was offered is not accepted. The message tells people why: one line, and one more for each of `refusals`. */
export class Refused extends Error {
  /**
   * @param {string} message
   * @param {{source: string, name: string, why: string}[]} [refusals]
   */
  constructor(message, refusals = []) {
    super([message, ...refusals.map(({ source, name, why }) => `${source} ${name}: ${why}.`)].join("\n"));
    this.name = "Refused";
    this.refusals = refusals;
  }
}

/** @param {Uint8Array|ArrayBuffer} bytes @returns {Promise<string>} SHA-256 in lower-case hex */
export async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * @param {Uint8Array} bytes A manifest.json, format 2; of any origin.
 * @returns {Promise<{root: string, version: string, files: Map<string, {sha256: string, size: number}>, keys: string[],
 *   threshold: number}>} Sizes are in bytes, keys are minisign's public keys.
 * @throws {Refused} when it is not such a document, or not in the one form that it may have
 */
export async function parseManifest(bytes) {
  need(bytes.length <= MAX_MANIFEST, "is too long");
  const value = canonicalJson(bytes);
  need(value !== undefined, "is no JSON in canonical form");
  need(keysOf(value) === "files,format,keys,threshold,version" && value.format === 2, "is not of format 2");
  const { version, keys, threshold } = value;
  need(typeof version === "string" && VERSION.test(version), "names no version");

  need(keysOf(value.files) !== null, "lists no files");
  const files = new Map(Object.entries(value.files));
  need(files.size > 0 && files.size <= MAX_FILES, "lists no files, or too many");
  let all = 0;
  for (const [name, file] of files) {
    need(name.length <= MAX_NAME && NAME.test(name), "has a file name that is not allowed");
    need(keysOf(file) === "sha256,size", `describes ${name} wrongly`);
    need(typeof file.sha256 === "string" && DIGEST.test(file.sha256), `has no SHA-256 of ${name}`);
    need(Number.isInteger(file.size) && file.size >= 0 && file.size <= MAX_FILE, `has no possible size of ${name}`);
    all += file.size;
  }
  need(all <= MAX_ALL, "lists files that are too long together");
  const names = [...files.keys()].map((name) => name.toLowerCase());
  const plain = new Set([...names, ...UNLISTED]);
  need(distinct(names), "lists a file name twice");
  need(plain.size === names.length + UNLISTED.length, "lists what lies beside the files");
  need(
    !names.some((name) => PACKED.test(name) && plain.has(name.slice(0, -3))),
    "lists a packed file beside the plain one",
  );

  need(Array.isArray(keys) && keys.length <= MAX_KEYS, "has no list of keys, or too many");
  need(
    keys.every((key) => typeof key === "string" && KEY.test(key)),
    "has a key that is none of minisign's",
  );
  need(!keys.some((key) => SMALL_ORDER.has(yOf(atob(key).slice(KEY_AT)))), "has a key for which anybody can sign");
  need(
    distinct(keys.map((key) => atob(key).slice(2, KEY_AT))) && distinct(keys.map((key) => atob(key).slice(KEY_AT))),
    "has a key twice",
  );
  const least = keys.length ? 1 : 0;
  need(
    Number.isInteger(threshold) && threshold >= least && threshold <= keys.length,
    "asks for an impossible number of signatures",
  );
  return { root: await sha256(bytes), version, files, keys, threshold };
}

/** @returns {number} below 0 when version `a` is older than `b`, 0 when they are equal, above 0 when it is newer */
export function compareVersions(a, b) {
  const [left, right] = [a.split("."), b.split(".")];
  for (let part = 0; part < Math.max(left.length, right.length); part++) {
    const difference = Number(left[part] ?? 0) - Number(right[part] ?? 0);
    if (difference) return difference;
  }
  return 0;
}

function need(holds, why) {
  if (!holds) throw new Refused(`the list of files ${why}`);
}

const distinct = (values) => new Set(values).size === values.length;

/** @returns {string|null} the sorted names of an object's values; null when it is no object */
const keysOf = (value) =>
  value && typeof value === "object" && !Array.isArray(value) ? Object.keys(value).sort().join() : null;

/** The y coordinate of an Ed25519 key, without the sign of x. */
const yOf = (key) =>
  BigInt.asUintN(
    255,
    [...key].reduceRight((sum, byte) => (sum << 8n) | BigInt(byte.charCodeAt(0)), 0n),
  );

/**
 * @param {Uint8Array} bytes
 * @returns {any} The JSON value; undefined when the bytes are not its canonical form. There is one form only, so that a
 *   hash names what every reader sees.
 */
export function canonicalJson(bytes) {
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    const value = JSON.parse(text);
    return canonical(value) === text ? value : undefined;
  } catch {
    return undefined; // also when it is nested too deeply
  }
}

/** JSON with sorted keys and no spaces, as build.py writes it. */
function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join()}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const members = Object.keys(value)
    .sort()
    .map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`);
  return `{${members.join()}}`;
}
