/**
 * What the page says for each code of the node.
 *
 * Does: hold one table from codes to words, with that of causes.js; put the values that come with a code into them.
 * Does not: decide when something is said. Codes: shared/convergence/codes.py and web/worker/reasons.py.
 */

import { because, CAUSES } from "./causes.js";
import { bytes } from "./words.js";

const TOR_DOCUMENTS = {
  consensus: "a list of relays",
  certificates: "keys of Tor's authorities",
  microdescriptors: "descriptions of relays",
};

/** @type {Record<string, string | ((values: object) => string)>} */
export const WORDS = {
  ...CAUSES,
  "code-number": ({ most }) => `The number of a code is 1 to ${most}. Ask for it again.`,
  "code-short": "A code has a number and two words, such as 7-crossover-clockwork.",
  "code-order": "The two words of the code are in the wrong order: the other one comes first.",
  "code-word": ({ word }) => `No code has the word “${word}” in this place. Ask how it is spelled.`,
  "code-guessed": "Somebody tried the code with wrong words, so it is used up. A new one follows.",
  "code-broken": "Somebody used the code, and the connection broke before they had the link. A new one follows.",
  "code-guessed-often": "Somebody keeps trying wrong words: there is no other code. Send the link instead.",
  "code-handed-over": "The code was used: they have the link.",
  "code-expired": "The code was not used in time and is good for nothing now. The link still is.",
  "code-no-number": "Somebody else holds every number that was tried for a code. Send the link instead.",
  "code-nobody": "Nobody offers this code: they may have stopped, or the code was used already.",
  "code-wrong":
    "The words are not those of the code, or somebody else answered in its place. It is used up: ask for a new one.",
  "limit-codes": ({ most }) => `No more than ${most} codes can be offered or used at once.`,
  "url-long": "This address is too long.",
  "url-none": "This is not a web address: it should look like https://example.org/page.",
  "url-https": "https pages cannot be fetched here: try the address with http:// in front.",
  "url-downgrade": "The address leads from https to http, where everybody could read it.",
  "url-characters": "This address has characters that need to be percent-encoded.",
  "file-large": ({ most }) => `The file is too large: it may have at most ${bytes(most)}.`,
  "file-many-entries": ({ most }) => `It holds too many files: ${most} can be shared under one link.`,
  "file-same-name": ({ name }) => `Two of them have the name ${name}: rename one of them.`,
  "file-deep": ({ name, most }) => `${name} lies too deep: a path has at most ${most} parts.`,
  "file-not-described": "The file's name or size cannot be described.",
  "limit-shares": ({ most }) => `No more than ${most} files can be shared at once.`,
  "limit-transfers": ({ most }) => `No more than ${most} files can be fetched at once: wait for one to finish.`,
  "limit-fetches": ({ most }) => `No more than ${most} addresses can be fetched at once: wait for one to finish.`,
  "gone-transfer": "This transfer is not in the list any more.",
  "gone-share": "This file is not shared any more.",
  "gone-file": "This file has not arrived yet.",
  looking: "Looking for someone who has this file.",
  connected: "Connected to a sender.",
  "sender-away": "Waiting for the sender. The transfer goes on by itself when the sending page is open again.",
  "stopped-here": "Stopped. Open the link again to go on.",
  "no-room": "There is no room left to store this file. Free some space, then choose Retry.",
  "storage-broken": "This file could not be read from or written to the browser's storage. Choose Retry to try again.",
  "sender-busy": "The sender is busy, and so is its queue. This page tries again until there is a place.",
  "in-queue": ({ position }) =>
    position === 1 ? "The sender is busy. You are next." : `The sender is busy. Your place in the queue: ${position}.`,
  nobody: "Nobody shares this file right now. This page goes on looking: ask the sender to open the sharing page.",
  misled: "What was found is not what this link is for. Ask the sender for the link again.",
  "no-points": "No meeting point can be reached yet. This page goes on trying; check your connection.",
  "waited-long": "The sender did not come back. What has arrived is kept: open the link again to go on.",
  "bad-manifest": "What this link says of its files contradicts itself. Nothing of it can be saved.",
  "unknown-kind": "This link is for a file that this version cannot fetch.",
  "source-other-file": "A sender described another file than the link's.",
  "source-wrong-bytes": "A sender sent wrong bytes.",
  "source-no-message": "A sender sent something that is no valid message.",
  "source-not-asked": "A sender sent a piece that nobody asked for.",
  "source-silent": "A sender gave nothing for long.",
  "source-slow": "A slow sender was left for a faster one.",
  "source-queued": "A sender let this page wait for long. It looks for another.",
  "source-stopped": "A sender stopped sending.",
  "storage-share": ({ detail }) => `The file cannot be shared${because(detail)}.`,
  "storage-restore": ({ detail }) => `What was kept from earlier cannot be read${because(detail)}.`,
  "storage-unshare": ({ detail }) => `What belonged to a share could not be deleted${because(detail)}.`,
  "fetch-circuit": "Building a circuit to an exit",
  "fetch-other-exit": "Trying another exit",
  "fetch-asking": "Asking the site",
  "fetch-cancelled": "Cancelled.",
  "fetch-policy": "The exit does not allow this address: try another address.",
  "fetch-no-host": "There is no such host: check the address.",
  "fetch-refused": "The site refused the connection: it may be down.",
  "fetch-timeout": "The site did not answer in time.",
  "fetch-no-route": "The exit cannot reach the site.",
  "fetch-cut": "The site cut the connection.",
  "fetch-path-broke": "The path through the network broke: try again.",
  "fetch-busy": "The exit is too busy: try again.",
  "fetch-exit-failed": "The exit failed: try again.",
  "fetch-incomplete": "The site closed the connection in the middle of its answer: try again.",
  "fetch-not-http": "The site's answer is not http.",
  "fetch-large": "This is larger than can be fetched here.",
  "fetch-circle": "The site redirects in a circle.",
  "fetch-bad-redirect": ({ flaw }) =>
    `The site redirects to an address that cannot be fetched. ${words({ code: flaw })}`,
  "tls-expired": "The site's certificate has expired: if this machine's clock is right, the site has to renew it.",
  "tls-not-yet": "The site's certificate is not valid yet: check this machine's clock.",
  "tls-wrong-host": "The site's certificate is for another name: this may not be the site that it says it is.",
  "tls-self-signed": "The site vouches for itself: nobody whom Mozilla trusts signed its certificate.",
  "tls-unknown-root": "The site's certificate comes from nobody whom Mozilla trusts, or is sent without its chain.",
  "tls-revoked": "The site's certificate comes from an authority that was revoked.",
  "tls-weak": "The site's certificate has a key or a signature that is too weak.",
  "tls-bad-certificate": "The site's certificate cannot be accepted.",
  "tls-old": "The site only speaks an old version of TLS, which is not safe any more.",
  "tls-refused": "The site refused the encrypted connection.",
  "tls-garbage": "What came is not TLS, or was altered on its way.",
  "tls-truncated": "The connection was cut: what came may be incomplete. Try again.",
  "tls-cut": "The site cut the connection before TLS began: check whether it speaks https at this port.",
  "tls-silent": "The site did not answer in time.",
  "tls-no-host": "There can be no certificate for this name.",
  "tls-unavailable": "This program's part for encrypted pages could not be loaded: try again.",
  "rtc-none": "",
  "rtc-shell": ({ detail }) => `The connection failed${because(detail)}.`,
  "rtc-stopping": "This node stops.",
  "rtc-useless-offer": "What this side offers is of no use.",
  "rtc-too-early": "The channel opened before it was described.",
  "rtc-no-connection": "No connection came about in time.",
  "rtc-other-certificate": "The other side came back with another certificate.",
  "rtc-unknown-node": "The introducer does not know the node.",
  "rtc-busy": "The introducer has too much to do.",
  "rtc-refused": "The introducer refuses.",
  "rtc-no-carrier": "There is nobody to introduce the two nodes.",
  "rtc-no-answer": "Nobody who was asked brought an answer.",
  "file-unreadable": "The file could not be read; it may have been moved, changed or removed. Choose it again.",
  "file-changed": "The file changed while it was being read. Choose it again once it is complete.",
  "file-no-room": ({ size, left }) =>
    `There is not enough room: the file has ${bytes(size)}, and this browser has ${bytes(left)} left for this site. ` +
    "Remove files from the lists or free disk space.",
  "file-not-stored": ({ detail }) =>
    `This browser could not store the file${because(detail)}. Free disk space, then choose it again.`,
  "file-incomplete": ({ detail }) => `The file cannot be put together${because(detail)}.`,
  "file-not-here": "This file is no longer in this browser. Open its link again.",
  "tor-code": ({ detail }) =>
    `This program's part for Tor could not be loaded${because(detail)}. Switch it off and on to try again.`,
  "tor-not-yet": "The list of Tor relays is not complete yet. Try again when “Through the Tor network” is in use.",
  "tor-refused": ({ document, detail }) =>
    `A node that leads into Tor gave ${TOR_DOCUMENTS[document] ?? "something"} that cannot be right${because(detail)}. ` +
    "It is not used. Another node is asked, or this one again later.",
  "body-not-here": "What was fetched is no longer here. Fetch it again.",
};

/** @returns {string} what to say of a trouble: a code, its values, and whether it is tried again (`retrying`) */
export const troubleWords = (trouble) => `${words(trouble)}${trouble.retrying ? " Trying again." : ""}`;

/**
 * @param {{code: string}|null} why A code and its values, as the node's state has them; null says nothing.
 * @returns {string} the sentence for it; the bare code where this version has no words for it
 */
export function words(why) {
  if (!why) return "";
  const entry = Object.hasOwn(WORDS, why.code) ? WORDS[why.code] : why.code;
  return typeof entry === "function" ? entry(why) : entry;
}
