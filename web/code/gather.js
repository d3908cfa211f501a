/**
 * All files of a manifest, from whoever has them.
 *
 * Does: take each file from what is kept or from the sources in turn, stop at its size and at named times, and compare
 * its SHA-256; say of each refused file which source offered it and why.
 * Does not: look at types, redirects or who a source is: only the bytes count. It does not choose the manifest.
 */

import { Refused, sha256 } from "./manifest.js";

export const MAX_SOURCES = 16;
export const PATIENCE = 20; // seconds that a source may send nothing
export const LEAST_RATE = 4 * 1024; // bytes a second that a source must send over a whole file
const AT_ONCE = 4; // files, which share the line
export const KEPT = "What this browser kept,"; // the name of that source in refusals

/**
 * @param {{files: Map<string, {sha256: string, size: number}>}} manifest
 * @param {string[]} sources Addresses that end with "/"; of more than MAX_SOURCES the first ones.
 * @param {object} [options]
 * @param {(name: string) => Promise<Uint8Array|null>} [options.have] What is kept under that name, unchecked.
 * @param {(name: string, bytes: Uint8Array) => Promise<void>} [options.keep] Is given each file that was fetched.
 * @param {(done: number, total: number) => void} [options.progress] Bytes.
 * @param {(refusal: {source: string, name: string, why: string}) => void} [options.refused] Is told each as it happens.
 * @param {number} [options.patience] Seconds.
 * @returns {Promise<Map<string, Uint8Array>>} every file, in no order
 * @throws {Refused} with all refusals so far, as soon as no source has one of the files
 */
export async function gather(manifest, sources, options = {}) {
  const {
    have = async () => null,
    keep = async () => {},
    progress = () => {},
    refused = () => {},
    patience = PATIENCE,
  } = options;
  const files = new Map();
  const refusals = [];
  const faults = new Map(sources.slice(0, MAX_SOURCES).map((source) => [source, 0]));
  const stop = new AbortController();
  let [done, total] = [0, 0];
  for (const { size } of manifest.files.values()) total += size;
  progress(done, total);

  const refuse = (source, name, why) => {
    refusals.push({ source, name, why });
    refused({ source, name, why });
  };
  const obtain = async (name, wanted) => {
    const kept = await have(name);
    if (kept) {
      const why = await difference(kept, wanted);
      if (!why) return kept;
      refuse(KEPT, name, why);
    }
    // A source that failed before is asked last, so that a dead one costs time once and not for every file.
    for (const source of [...faults.keys()].sort((a, b) => faults.get(a) - faults.get(b))) {
      let why;
      try {
        const bytes = await download(new URL(name, source), wanted.size, { patience, signal: stop.signal });
        why = await difference(bytes, wanted);
        if (!why) {
          await keep(name, bytes);
          return bytes;
        }
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        why = error.message;
      }
      stop.signal.throwIfAborted();
      faults.set(source, faults.get(source) + 1);
      refuse(source, name, why);
    }
    throw new Refused(`No source has the file ${name} as it was published.`, refusals);
  };

  const left = [...manifest.files];
  const take = async () => {
    while (left.length) {
      const [name, wanted] = left.shift();
      files.set(name, await obtain(name, wanted));
      stop.signal.throwIfAborted(); // the caller has been told of a failure
      done += wanted.size;
      progress(done, total);
    }
  };
  try {
    await Promise.all(Array.from({ length: AT_ONCE }, take));
  } finally {
    left.length = 0;
    stop.abort();
  }
  return files;
}

/**
 * What an address gives, read no further than it may be long.
 * @param {URL} address
 * @param {number} limit Bytes.
 * @param {{patience?: number, signal?: AbortSignal}} [options] `patience` in seconds.
 * @returns {Promise<Uint8Array>}
 * @throws {Refused} saying why, as the end of a sentence about that address
 */
export async function download(address, limit, { patience = PATIENCE, signal } = {}) {
  const stop = new AbortController();
  const give = (why) => stop.abort(new Refused(why));
  const forward = () => stop.abort(signal.reason);
  signal?.addEventListener("abort", forward);
  const idle = () => setTimeout(give, patience * 1000, `it sent nothing for ${patience} seconds`);
  let silent = idle();
  const longest = patience + Math.ceil(limit / LEAST_RATE);
  const slow = setTimeout(give, longest * 1000, `it took longer than ${longest} seconds`);
  try {
    signal?.throwIfAborted();
    const answer = await fetch(address, {
      cache: "no-cache",
      credentials: "omit",
      referrerPolicy: "no-referrer",
      signal: stop.signal,
    });
    if (!answer.ok) throw new Refused(`it answered ${answer.status}`);
    const bytes = new Uint8Array(limit);
    let length = 0;
    for (const reader = answer.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      clearTimeout(silent);
      if (done) return bytes.subarray(0, length);
      silent = idle();
      if (length + value.length > limit) throw new Refused(`it sent more than ${limit} bytes`);
      bytes.set(value, length);
      length += value.length;
    }
  } catch (error) {
    if (stop.signal.aborted) throw stop.signal.reason;
    if (error instanceof Refused) throw error;
    throw new Refused("no answer, or none that this browser lets the page read");
  } finally {
    clearTimeout(silent);
    clearTimeout(slow);
    signal?.removeEventListener("abort", forward);
    stop.abort(); // what is still on its way is not wanted
  }
}

/** @returns {Promise<string>} how bytes differ from what the manifest lists; "" when they do not */
async function difference(bytes, { sha256: digest, size }) {
  if (bytes.length !== size) return `${bytes.length} bytes, where the list of files says ${size}`;
  return (await sha256(bytes)) === digest ? "" : "its bytes are not the published ones (SHA-256 differs)";
}
