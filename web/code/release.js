/**
 * What speaks for a manifest: signatures by keys that the running version names, and its line in the append-only
 * release log.
 *
 * Does: check release.json (minisign's signatures over manifest.json, not prehashed; an inclusion proof of RFC 9162,
 * section 2.1.3) and releases.txt against the head of the log that was seen last; say in words what is missing.
 * Does not: fetch, remember, or decide what is run.
 */

import { canonicalJson, parseManifest, sha256 } from "./manifest.js";

export const MAX_RELEASE = 64 * 1024; // bytes of release.json
export const MAX_LOG = 8 << 20; // bytes of releases.txt
const MAX_LINES = 100_000; // of releases.txt
const MAX_SIGNATURES = 32;
const MAX_SIGNATURE = 2048; // bytes of one .minisig file in UTF-8
const MAX_PROOF = 17; // hashes: a tree of MAX_LINES leaves is no higher
const SLICE = 1024; // hashes that are computed at the same time

const LEAF = 0;
const NODE = 1;
const LINE = /^(0|[1-9]\d{0,8})(\.(0|[1-9]\d{0,8})){0,3} [0-9a-f]{64}$/;
const DIGEST = /^[0-9a-f]{64}$/;
const LONE = /\p{Surrogate}/u; // UTF-8 cannot encode it
const UNTRUSTED = "untrusted comment: ";
const TRUSTED = "trusted comment: ";

/**
 * @typedef {{size: number, root: string}} Head the log's first `size` lines, and their Merkle root in hex
 * @typedef {object} Standing
 * @property {boolean} ok Enough keys have signed, and the log holds it and what was seen before.
 * @property {number} signers How many of the trusted keys have signed.
 * @property {number} needed How many have to; 0 when the running version names no keys.
 * @property {number|null} index Its line in the log, from 0; null when nothing proves one.
 * @property {Head|null} head The log that the signers have seen; null unless `ok`.
 * @property {boolean} older The log has it before the version that was seen last: a roll-back.
 * @property {string[]} why What is missing or wrong, for people.
 */

/**
 * @param {object} offered
 * @param {Uint8Array} offered.manifestBytes
 * @param {Uint8Array|null} offered.release release.json; null when there is none
 * @param {Uint8Array|null} offered.log releases.txt; null when there is none
 * @param {{keys: string[], threshold: number}} offered.trusted Those of the manifest that runs now.
 * @param {{size: number, root: string, index: number}|null} offered.seen The log's head, and the line of the version
 *   that runs, as last accepted.
 * @returns {Promise<Standing>} It throws Refused for a manifest that is none, and for nothing else.
 */
export async function checkRelease({ manifestBytes, release, log, trusted, seen }) {
  const manifest = await parseManifest(manifestBytes);
  const standing = { ok: false, signers: 0, needed: trusted.threshold, index: null, head: null, older: false, why: [] };
  const lacks = (why) => standing.why.push(why);

  const record = release && readRelease(release);
  if (!release) lacks("no signatures came with it");
  else if (!record) lacks("its release.json is damaged");

  const lines = log && readLog(log);
  if (!log) lacks("no release log came with it");
  else if (!lines) lacks("its release log is damaged");

  const line = `${manifest.version} ${manifest.root}`;
  let head = null;
  if (record) {
    const root = await proven(line, record);
    if (!root) lacks("its release.json does not prove that it is in the log");
    else head = { size: record.size, root };
  }
  if (lines) {
    const logged = lines.indexOf(line);
    if (logged < 0) lacks("the release log does not have it");
    else standing.index = logged;
    if (head && (logged !== record.index || (await merkleRoot(lines.slice(0, head.size))) !== head.root)) {
      lacks("the release log is not the one that was signed");
    }
    if (seen && (lines.length < seen.size || (await merkleRoot(lines.slice(0, seen.size))) !== seen.root)) {
      lacks("the release log contradicts the one seen before: releases were taken out of it or changed");
    }
  }
  if (seen && standing.index !== null && standing.index < seen.index) {
    standing.older = true;
    lacks("the release log has it before the version that runs");
  }

  if (trusted.threshold === 0) lacks("the version that runs names no keys that could sign for another");
  else if (head) {
    const comment = `convergence log ${head.size} ${head.root}`;
    try {
      standing.signers = await signers(record.signatures, trusted.keys, manifestBytes, comment);
      if (standing.signers < trusted.threshold)
        lacks(`${standing.signers} of the ${trusted.threshold} keys needed have signed it`);
    } catch {
      lacks("this browser cannot check signatures (Ed25519): a current one can");
    }
  }
  standing.ok = standing.why.length === 0;
  if (standing.ok) standing.head = head;
  return standing;
}

/** How many of the keys have signed these bytes with this trusted comment. Throws when the browser has no Ed25519. */
async function signers(signatures, keys, bytes, comment) {
  let number = 0;
  for (const key of keys) {
    const raw = fromBase64(key);
    const verifier = await crypto.subtle.importKey("raw", raw.subarray(10), "Ed25519", false, ["verify"]);
    for (const text of signatures) {
      const signature = readSignature(text);
      if (!signature || signature.comment !== comment || !same(signature.key, raw.subarray(2, 10))) continue;
      const commented = joined(signature.bytes, new TextEncoder().encode(comment));
      const verified = await Promise.all([
        crypto.subtle.verify("Ed25519", verifier, signature.bytes, bytes),
        crypto.subtle.verify("Ed25519", verifier, signature.global, commented),
      ]);
      if (verified.every(Boolean)) {
        number += 1;
        break;
      }
    }
  }
  return number;
}

/** @returns {{index: number, size: number, proof: Uint8Array[], signatures: string[]}|null} */
function readRelease(bytes) {
  const value = bytes.length <= MAX_RELEASE ? canonicalJson(bytes) : null;
  if (!value || Object.keys(value).sort().join() !== "format,index,proof,signatures,size" || value.format !== 1)
    return null;
  const { index, size, proof, signatures } = value;
  if (!Number.isInteger(size) || size < 1 || size > MAX_LINES) return null;
  if (!Number.isInteger(index) || index < 0 || index >= size) return null;
  if (
    !Array.isArray(proof) ||
    proof.length > MAX_PROOF ||
    !proof.every((hash) => typeof hash === "string" && DIGEST.test(hash))
  )
    return null;
  if (!Array.isArray(signatures) || signatures.length > MAX_SIGNATURES) return null;
  if (!signatures.every((text) => typeof text === "string" && !LONE.test(text) && utf8Length(text) <= MAX_SIGNATURE))
    return null;
  return { index, size, proof: proof.map(fromHex), signatures };
}

/** @returns {string[]|null} the log's lines; null when it is no log, or one that has a version or a root hash twice */
function readLog(bytes) {
  const text = bytes.length <= MAX_LOG ? utf8(bytes) : null;
  if (!text?.endsWith("\n")) return null;
  const lines = text.slice(0, -1).split("\n");
  if (lines.length > MAX_LINES || !lines.every((line) => LINE.test(line))) return null;
  const [versions, roots] = [0, 1].map((part) => new Set(lines.map((line) => line.split(" ")[part])));
  return versions.size === lines.length && roots.size === lines.length ? lines : null;
}

/** @returns {{key: Uint8Array, bytes: Uint8Array, comment: string, global: Uint8Array}|null} of a .minisig file */
function readSignature(text) {
  const [untrusted, signature, trusted, global, ...rest] = text.replace(/\n$/, "").split("\n");
  if (!untrusted.startsWith(UNTRUSTED) || !trusted?.startsWith(TRUSTED) || global === undefined || rest.length)
    return null;
  const [raw, over] = [fromBase64(signature), fromBase64(global)];
  if (raw?.length !== 74 || over?.length !== 64) return null;
  if (raw[0] !== 0x45 || raw[1] !== 0x64) return null; // "Ed": not prehashed
  return { key: raw.subarray(2, 10), bytes: raw.subarray(10), comment: trusted.slice(TRUSTED.length), global: over };
}

/** The Merkle root that an inclusion proof leads to (RFC 9162, 2.1.3.2), in hex; null when its length does not fit. */
async function proven(line, { index, size, proof }) {
  let [place, last] = [index, size - 1];
  let hash = await leaf(line);
  for (const other of proof) {
    if (last === 0) return null;
    if (place % 2 || place === last) {
      hash = await node(other, hash);
      while (place % 2 === 0 && place > 0) [place, last] = [place >> 1, last >> 1];
    } else hash = await node(hash, other);
    [place, last] = [place >> 1, last >> 1];
  }
  return last === 0 ? toHex(hash) : null;
}

/** The Merkle tree hash of lines (RFC 9162, 2.1.1), in hex. A hash without a neighbour goes up a level as it is. */
export async function merkleRoot(lines) {
  if (lines.length === 0) return sha256(new Uint8Array());
  let level = await mapped(lines, leaf);
  while (level.length > 1) {
    const pairs = level.flatMap((hash, place) => (place % 2 ? [] : [[hash, level[place + 1]]]));
    level = await mapped(pairs, ([left, right]) => (right ? node(left, right) : left));
  }
  return toHex(level[0]);
}

async function mapped(items, work) {
  const done = [];
  for (let start = 0; start < items.length; start += SLICE)
    done.push(...(await Promise.all(items.slice(start, start + SLICE).map(work))));
  return done;
}

const digest = async (...parts) => new Uint8Array(await crypto.subtle.digest("SHA-256", joined(...parts)));
const leaf = (line) => digest([LEAF], new TextEncoder().encode(line));
const node = (left, right) => digest([NODE], left, right);

function joined(...parts) {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

const same = (left, right) => left.length === right.length && left.every((byte, place) => byte === right[place]);
const toHex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const utf8Length = (text) => new TextEncoder().encode(text).length;
const fromHex = (text) => Uint8Array.from(text.match(/../g), (pair) => parseInt(pair, 16));

/** @returns {Uint8Array|null} null when it is not canonical base64: atob takes other forms, too */
function fromBase64(text) {
  try {
    const letters = atob(text);
    return btoa(letters) === text ? Uint8Array.from(letters, (letter) => letter.charCodeAt(0)) : null;
  } catch {
    return null;
  }
}

function utf8(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
}
