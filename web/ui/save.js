/**
 * Does: hand a Blob to the browser's own download, under a name that the worker made harmless, as bytes.
 * Does not: open, render or run what was received.
 */

const KEEP_MS = 60_000; // browsers may read the Blob's address some time after the click

/**
 * @param {Blob} blob
 * @param {string} name
 * @returns {string} The name that the browser is given: without dots before it, which some browsers drop or replace.
 */
export function saveBlob(blob, name) {
  const plain = name.replace(/^\.+/, "") || "file";
  const address = URL.createObjectURL(new Blob([blob], { type: "application/octet-stream" }));
  const anchor = document.createElement("a");
  anchor.href = address;
  anchor.download = plain;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(address), KEEP_MS);
  return plain;
}
