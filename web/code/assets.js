/**
 * Does: say from which address the program's own files are loaded: beside the page, or from bytes that were verified.
 * Does not: fetch or verify.
 */

/**
 * @param {string} base The site's address.
 * @param {Object<string, string>|null} files Addresses of verified files by name, as the bookmarklet leaves them; null
 *   on a page that the site gave.
 * @returns {(name: string) => string} the address of a file of the manifest; throws for one that was not verified
 */
export function assets(base, files) {
  return (name) => {
    if (!files) return new URL(name, base).href;
    if (!Object.hasOwn(files, name)) throw new Error(`${name} is not among the verified files`);
    return files[name];
  };
}
