/**
 * Does: keep buckets of bytes in IndexedDB, one object store a bucket, one transaction a call; join pieces into a Blob.
 * Does not: know what the bytes are.
 */

const NAME = "convergence";
const VERSION = 3;
const BUCKETS = ["piece", "file", "transfer", "node", "entry", "known", "tor-directory"];
const READ_TOGETHER = 16; // pieces of 256 KiB that are in memory at once while a file is put together

const ANSWER_WITHIN = 60_000; // ms that one request may take

const FULL =
  "There is no room left for this site's files in this browser. Remove files from the lists below or free disk " +
  "space, then try again.";

const BLOCKED = "Another tab of this site runs an older version. Close it, then reload this page.";
const LATE = { name: "no answer within a minute" };

/** @returns {[string, string]} kind and message of a Failure */
function failure(error) {
  if (error?.name === "QuotaExceededError") return ["quota", FULL];
  return [
    "io",
    `The browser's storage failed (${error?.name ?? "unknown error"}). Reload the page; if it happens again, allow ` +
      "this site to store data.",
  ];
}

const wait = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

/** Keys that begin with `prefix`: binary keys are compared byte by byte. */
function beginningWith(prefix) {
  const end = prefix.slice();
  let last = end.length - 1;
  while (last >= 0 && end[last] === 255) last -= 1;
  if (last < 0) return prefix.length ? IDBKeyRange.lowerBound(prefix) : undefined;
  end[last] += 1;
  return IDBKeyRange.bound(prefix, end.slice(0, last + 1), false, true);
}

/**
 * @param {(request: number, kind: string, message: any, lengths?: Uint16Array) => void} answer Called once for each
 *   request; kind is "" and message the result (if any), or kind and message are a Failure's.
 */
export async function openDatabase(answer) {
  const opening = indexedDB.open(NAME, VERSION);
  opening.onupgradeneeded = () => {
    const missing = BUCKETS.filter((bucket) => !opening.result.objectStoreNames.contains(bucket));
    for (const bucket of missing) opening.result.createObjectStore(bucket);
  };
  const database = await new Promise((resolve, reject) => {
    const fail = (error) => reject(new Error(failure(error)[1]));
    opening.onblocked = () => reject(new Error(BLOCKED));
    setTimeout(fail, ANSWER_WITHIN, LATE);
    wait(opening).then(resolve, fail);
  });
  database.onversionchange = () => database.close();

  const begin = (bucket, mode) => database.transaction(bucket, mode, { durability: "relaxed" });
  const asked = new Map(); // request -> its time limit
  const expect = (request) => asked.set(request, setTimeout(fail, ANSWER_WITHIN, request, LATE));
  const reply = (request, ...rest) => {
    clearTimeout(asked.get(request));
    if (asked.delete(request)) answer(request, ...rest); // else it was too late
  };
  const fail = (request, error) => reply(request, ...failure(error));

  return {
    /** Writes rows of [bucket, key, value or null] in one transaction. */
    store(request, rows) {
      expect(request);
      let transaction = null;
      try {
        transaction = begin([...new Set(rows.map(([bucket]) => bucket))], "readwrite");
        transaction.oncomplete = () => reply(request, "");
        transaction.onabort = () => fail(request, transaction.error);
        for (const [bucket, key, value] of rows) {
          const store = transaction.objectStore(bucket);
          if (value === null || value === undefined) store.delete(key);
          else store.put(value, key);
        }
      } catch (error) {
        if (transaction) transaction.abort();
        else queueMicrotask(() => fail(request, error));
      }
    },

    /** Answers with the value (Uint8Array), or with nothing. */
    load(request, bucket, key) {
      expect(request);
      try {
        wait(begin(bucket, "readonly").objectStore(bucket).get(key)).then(
          (value) => reply(request, "", value),
          (error) => fail(request, error),
        );
      } catch (error) {
        queueMicrotask(() => fail(request, error));
      }
    },

    /** Answers with all keys that begin with the prefix, in order, joined, and their lengths. */
    scan(request, bucket, prefix) {
      expect(request);
      const joined = (keys) => {
        const lengths = Uint16Array.from(keys, (key) => key.byteLength);
        const whole = new Uint8Array(lengths.reduce((sum, length) => sum + length, 0));
        let at = 0;
        keys.forEach((key) => {
          whole.set(new Uint8Array(key), at);
          at += key.byteLength;
        });
        reply(request, "", whole, lengths);
      };
      try {
        wait(begin(bucket, "readonly").objectStore(bucket).getAllKeys(beginningWith(prefix))).then(joined, (error) =>
          fail(request, error),
        );
      } catch (error) {
        queueMicrotask(() => fail(request, error));
      }
    },

    /** @returns {Promise<{quota: number, usage: number}>} bytes that this site may store, and stores */
    estimate: () => navigator.storage.estimate(),

    /**
     * Puts a file together from its pieces without holding it in memory: the browser keeps Blobs on disk.
     * @param {Uint8Array} root Prefix of the pieces' keys. @param {number} size Of the whole, in bytes.
     * @returns {Promise<Blob>} of the one type that no browser renders
     */
    async assemble(root, size) {
      const range = beginningWith(root);
      const parts = [];
      let next = range;
      for (;;) {
        const store = begin("piece", "readonly").objectStore("piece");
        const [keys, values] = await Promise.all([
          wait(store.getAllKeys(next, READ_TOGETHER)),
          wait(store.getAll(next, READ_TOGETHER)),
        ]);
        if (!keys.length) break;
        parts.push(new Blob(values));
        next = IDBKeyRange.bound(keys[keys.length - 1], range.upper, true, true);
      }
      const blob = new Blob(parts, { type: "application/octet-stream" });
      if (blob.size !== size)
        throw new Error(
          "Pieces of this file are missing in this browser's storage. Remove it here and open its link again.",
        );
      return blob;
    },

    /**
     * @param {Blob} whole @param {(Uint8Array | [number, number])[]} parts Bytes, or where in the whole they begin and end.
     * @returns {Blob} The parts, joined; those of the whole are not read.
     */
    join: (whole, parts) =>
      new Blob(
        parts.map((part) => (Array.isArray(part) ? whole.slice(...part) : part)),
        { type: "application/octet-stream" },
      ),
  };
}
