/**
 * network.json: which network a site or mirror leads to. It is no code, and nothing vouches for it.
 *
 * Does: fetch and read it, of anyone, within a named size.
 * Does not: know what it means, or keep it.
 */

import { download } from "./gather.js";

const MAX_NETWORK = 64 * 1024; // bytes

/**
 * @param {string} site Address that ends with "/".
 * @param {{patience?: number}} [options] In seconds.
 * @returns {Promise<Uint8Array>}
 * @throws {Refused} saying why, as the end of a sentence about that address
 */
export const fetchNetwork = (site, options) => download(new URL("network.json", site), MAX_NETWORK, options);

/** @param {Uint8Array} bytes @returns {object} @throws when they are no JSON */
export const readNetwork = (bytes) => JSON.parse(new TextDecoder().decode(bytes));
