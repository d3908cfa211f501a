/**
 * Does: the headers of what the service worker answers, which are the site's.
 * Does not: state them: build.py puts those of pynode/headers.py in the place of SITE_HEADERS.
 */

const { headers, bookmarkPolicy, types } = SITE_HEADERS;

/** @param {string} name of a file @returns {Object<string, string>} */
export function headersOf(name) {
  const type = types[name.slice(name.lastIndexOf("."))] ?? "application/octet-stream";
  const policy = name === "open.html" ? { "Content-Security-Policy": bookmarkPolicy } : {};
  return { ...headers, ...policy, "Content-Type": type };
}
