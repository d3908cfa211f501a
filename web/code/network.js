/**
 * network.json: which network a site or mirror leads to. It is no code, and nothing vouches for it.
 *
 * Does: fetch it, of anyone, within a named size, and see that it has the form of one.
 * Does not: know what it means, or keep it.
 */

import { download } from "./gather.js";
import { Refused } from "./manifest.js";

const MAX_NETWORK = 64 * 1024; // bytes
const IDENTITY = /^[0-9a-f]{64}$/i; // the facilitator's, Ed25519

/**
 * @param {string} site Address that ends with "/".
 * @param {{patience?: number}} [options] In seconds.
 * @returns {Promise<Uint8Array>}
 * @throws {Refused} saying why, as the end of a sentence about that address
 */
export const fetchNetwork = (site, options) => download(new URL("network.json", site), MAX_NETWORK, options);

/**
 * @param {Uint8Array} bytes
 * @returns {{facilitator: {identity: string, path: string}, site?: string, rtc?: {stun: string[]}}}
 * @throws {Refused} saying why, as the end of a sentence about where they came from
 */
export function readNetwork(bytes) {
  let network = null;
  try {
    network = JSON.parse(new TextDecoder().decode(bytes));
  } catch {} // said below
  const { identity, path } = network?.facilitator ?? {};
  const stun = network?.rtc === undefined ? [] : network.rtc?.stun;
  const texts = [identity, path, ...(Array.isArray(stun) ? stun : [null])];
  if (!texts.every((text) => typeof text === "string") || !IDENTITY.test(identity))
    throw new Refused("it gave something else");
  return network;
}
