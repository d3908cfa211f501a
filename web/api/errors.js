/**
 * Does: the one kind of error that programs get, and the numbers by which pipes end.
 * Does not: hold words of the node's codes: ui/causes.js does.
 */

import { CAUSES, ENDS } from "../ui/causes.js";

/** Why a pipe ended, as numbers that travel (errors.EndReason of the core; Tor's, tor-spec "Closing streams"). */
export const EndReason = Object.freeze({
  MISC: 1,
  RESOLVEFAILED: 2,
  CONNECTREFUSED: 3,
  EXITPOLICY: 4,
  DESTROY: 5,
  DONE: 6,
  TIMEOUT: 7,
  NOROUTE: 8,
  HIBERNATING: 9,
  INTERNAL: 10,
  RESOURCELIMIT: 11,
  CONNRESET: 12,
  TORPROTOCOL: 13,
  NOTDIRECTORY: 14,
});

/** `code`: for programs, docs/javascript.md lists them; `message`: for people; `reason`: an EndReason, where there is one. */
export class ConvergenceError extends Error {
  constructor(code, message, reason = undefined) {
    super(message);
    this.name = "ConvergenceError";
    this.code = code;
    this.reason = reason;
  }
}

/** @param {{code: string}} why of the node */
export function errorOf(why, reason = undefined) {
  const words = Object.hasOwn(CAUSES, why.code) ? CAUSES[why.code] : why.code;
  return new ConvergenceError(why.code, typeof words === "function" ? words(why) : words, reason);
}

/** @param {number} reason what the far end, or something between, gave a pipe up with */
export const ended = (reason) =>
  new ConvergenceError("ended", ENDS[reason] ?? `The far side gave up (code ${reason}).`, reason);
