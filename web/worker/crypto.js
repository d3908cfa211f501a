/**
 * The browser's cryptography for the node, called from Python without ever waiting.
 *
 * Does: X25519, Ed25519 and ChaCha20-Poly1305 with libsodium; Argon2id, which the usual build of libsodium.js lacks,
 * with @noble/hashes; AES-CTR streams whose key stream WebCrypto computes ahead; randomness. All calls are synchronous,
 * and take and return Uint8Array; a check that fails returns undefined or false.
 * Does not: know what the keys are for. crypto.py, beside this file, is the other half.
 */

import { unsafe as aes } from "@noble/ciphers/aes.js";
import { argon2id } from "@noble/hashes/argon2.js";
import sodium from "libsodium-wrappers";

const AES_BLOCK = 16;
const BUSY_AFTER = 16 * 1024; // a stream that carried less never asks for key stream ahead
const FIRST_AHEAD = 64 * 1024; // bytes computed ahead at first ...
const AHEAD = 256 * 1024; // ... and from then on: WebCrypto costs as much a call as 50 KiB of work
const AHEAD_LIMIT = 16 * 1024 * 1024; // bytes of all streams; the one that is idle longest gives up its part
const RANDOM_LIMIT = 65536; // what getRandomValues fills in one call

const ZEROS = new Uint8Array(AHEAD); // key stream is the encryption of zeros

/** @returns {Promise<object>} what crypto.py imports as `convergence_platform` */
export async function createCrypto() {
  if (!globalThis.crypto?.subtle)
    throw new Error("this page has no cryptography: open it over https, or from this machine");
  await sodium.ready;
  return { ...primitives, ...createStreams() };
}

const primitives = {
  x25519Public: (secret) => sodium.crypto_scalarmult_base(secret),

  x25519(secret, point) {
    try {
      return sodium.crypto_scalarmult(secret, point);
    } catch {
      return undefined; // a point of low order
    }
  },

  ed25519Public: (seed) => sodium.crypto_sign_seed_keypair(seed).publicKey,

  ed25519Sign: (seed, message) =>
    sodium.crypto_sign_detached(message, sodium.crypto_sign_seed_keypair(seed).privateKey),

  ed25519Verify: (point, signature, message) =>
    point.length === 32 && signature.length === 64 && sodium.crypto_sign_verify_detached(signature, message, point),

  chachaEncrypt: (key, nonce, data, ad) => sodium.crypto_aead_chacha20poly1305_ietf_encrypt(data, ad, null, nonce, key),

  chachaDecrypt(key, nonce, data, ad) {
    try {
      return sodium.crypto_aead_chacha20poly1305_ietf_decrypt(null, data, ad, nonce, key);
    } catch {
      return undefined; // the tag does not verify
    }
  },

  argon2id: (message, salt, memory) => argon2id(message, salt, { t: 1, m: memory, p: 1, dkLen: 32 }),

  random(size) {
    const bytes = new Uint8Array(size);
    for (let at = 0; at < size; at += RANDOM_LIMIT) crypto.getRandomValues(bytes.subarray(at, at + RANDOM_LIMIT));
    return bytes;
  },
};

/**
 * AES-CTR streams, known to Python by number, that work in a stage: a buffer of Python's own memory. One crossing then
 * encrypts a run of cells, and nothing is copied for it.
 */
function createStreams() {
  const streams = new Map();
  const budget = createBudget();
  let owner, view, words;
  let last = 0;

  /** Python's memory moves when it grows; its views then have length 0 and have to be made again. */
  function look() {
    view?.release();
    view = owner.getBuffer("u8");
    const { buffer, byteOffset, byteLength } = view.data;
    words = new Uint32Array(buffer, byteOffset, byteLength >> 2); // throws unless aligned, which a bytearray is
  }

  return {
    /** @param proxy of a bytearray, for as long as the page lives; its size is a multiple of 16 */
    attach(proxy) {
      owner = proxy;
      look();
    },
    open(key) {
      streams.set(++last, new KeyStream(key, budget));
      return last;
    },
    /** XOR `size` bytes of the stage. They start at the stream's position modulo 16, so that words match words. */
    crypt(number, size) {
      if (!words.length) look();
      streams.get(number).apply(words, size);
    },
    close(number) {
      streams.get(number).close();
      streams.delete(number);
    },
  };
}

/** Shares AHEAD_LIMIT between streams. */
function createBudget() {
  const holders = new Map(); // stream -> bytes, the one that asked longest ago first
  let held = 0;

  function give(stream, size) {
    if (!size) return;
    const left = holders.get(stream) - size;
    held -= size;
    left ? holders.set(stream, left) : holders.delete(stream);
  }

  function take(stream, size) {
    for (const holder of [...holders.keys()]) {
      if (held + size <= AHEAD_LIMIT) break;
      if (holder !== stream) holder.drop();
    }
    if (held + size > AHEAD_LIMIT) return false;
    const had = holders.get(stream) ?? 0;
    holders.delete(stream);
    holders.set(stream, had + size);
    held += size;
    return true;
  }

  return { take, give };
}

/**
 * The key stream of one key from counter 0 on. Parts of it wait in `parts`, in order; where none reaches, the missing
 * bytes are computed at once by the slower synchronous cipher. Every part starts and ends between AES blocks.
 */
class KeyStream {
  constructor(key, budget) {
    this.key = key;
    this.schedule = aes.expandKeyLE(key);
    this.budget = budget;
    this.position = 0;
    this.parts = []; // {start, words, end, ahead: bytes taken from the budget}
    this.asked = false; // whether WebCrypto is at work for us
    this.ahead = FIRST_AHEAD;
    this.importedKey = null;
  }

  /**
   * XOR the next `size` bytes onto `target` (Uint32Array), from byte `position % 16` on. Other bytes in the first and
   * the last word are overwritten.
   */
  apply(target, size) {
    const base = this.position - (this.position % AES_BLOCK);
    const end = this.position + size;
    while (this.position < end) {
      const part = this.part(end);
      const stop = Math.min(end, part.end);
      const offset = (part.start - base) >> 2;
      const source = part.words;
      for (let at = (this.position - base) >> 2, until = (stop - base + 3) >> 2; at < until; at++)
        target[at] ^= source[at - offset];
      this.position = stop;
    }
    this.askAhead();
  }

  /** The part that holds the byte at `position`; one that reaches `end` if it has to be made. */
  part(end) {
    while (this.parts.length && this.parts[0].end <= this.position) this.budget.give(this, this.parts.shift().ahead);
    const next = this.parts[0];
    if (next && next.start <= this.position) return next;
    const until = next ? Math.min(end, next.start) : end;
    const part = this.compute(this.position - (this.position % AES_BLOCK), until);
    this.parts.unshift(part);
    return part;
  }

  /** At once: the blocks from `start` to `until`, or to AHEAD bytes. */
  compute(start, until) {
    const bytes = new Uint8Array(Math.min(Math.ceil((until - start) / AES_BLOCK) * AES_BLOCK, AHEAD));
    aes.ctrCounter(this.schedule, counterBlock(start), ZEROS.subarray(0, bytes.length), bytes);
    return { start, words: new Uint32Array(bytes.buffer), end: start + bytes.length, ahead: 0 };
  }

  /** Have the next part computed while Python does other things. */
  askAhead() {
    if (this.asked || this.position < BUSY_AFTER) return;
    const reach = Math.max(this.parts.at(-1)?.end ?? 0, this.position);
    const size = this.ahead;
    if (reach - this.position >= size / 2 || !this.budget.take(this, size)) return;
    const start = Math.ceil(reach / AES_BLOCK) * AES_BLOCK;
    this.asked = true;
    this.fetch(start, size).then(
      (words) => {
        this.asked = false;
        const end = start + size;
        if (this.key && end > this.position) this.parts.push({ start, words, end, ahead: size });
        else this.budget.give(this, size);
        this.ahead = AHEAD;
        if (this.key) this.askAhead();
      },
      (error) => {
        console.error(error); // `asked` stays: this stream goes on without WebCrypto
        this.budget.give(this, size);
      },
    );
  }

  async fetch(start, size) {
    this.importedKey ??= crypto.subtle.importKey("raw", this.key, "AES-CTR", false, ["encrypt"]);
    const algorithm = { name: "AES-CTR", counter: counterBlock(start), length: 128 };
    return new Uint32Array(await crypto.subtle.encrypt(algorithm, await this.importedKey, ZEROS.subarray(0, size)));
  }

  /** Give up what is held ahead; it can be computed again. */
  drop() {
    for (const { ahead } of this.parts.splice(0)) this.budget.give(this, ahead);
  }

  close() {
    this.drop();
    this.key.fill(0);
    this.key = null;
    this.schedule.fill(0);
  }
}

/** The 128-bit big-endian counter of the AES block at byte `start`. */
function counterBlock(start) {
  const block = new Uint8Array(AES_BLOCK);
  new DataView(block.buffer).setBigUint64(8, BigInt(start / AES_BLOCK));
  return block;
}
