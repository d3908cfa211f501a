/**
 * WebRTC connections for the node's worker: browsers have RTCPeerConnection in pages only.
 *
 * Does: make a connection for each channel that the worker asks for, describe it, apply what the other side says of it,
 * hand its data channel over to the worker; mend it when the network changes; end it when it cannot be mended.
 * Does not: carry descriptions to the other side, or look into what is sent.
 *
 * Messages, all with the worker's number of the `channel`:
 *   worker to page: connect {role: "offer"|"answer", stun: string[]}, describe {kind, sdp}, close,
 *     taken {bytes}: how much of what arrived the node has been given, in all; the first one, 0, says that the channel
 *     is open;
 *   page to worker: data {pipe: RTCDataChannel} or, where that cannot be handed over, data {forwarded: MessagePort};
 *     described {kind, sdp}, state {state: "connected"|"recovering"}, closed {reason}.
 * A connection ends with `closed`, which comes once and also answers `close`.
 */

import { forward } from "./forward.js";
import { watchNetwork } from "./network.js";

const MAX_CONNECTIONS = 64;
const MAX_HELD = 64; // candidate lines of the other side that wait for its description
const MAX_BACKLOG = 32 << 20; // bytes that have arrived and that the node has not been given
const WATCH_MS = 1000; // between two looks at the backlogs

const GATHER_MS = 300; // how long a description waits for candidates; later ones follow
const BATCH_MS = 200; // how long late candidates are collected before they are sent
const OPENING_MS = 18_000; // from connect to an open channel; the core waits longer, and can give no reason
const SETTLE_MS = 1000; // what a changed network, and the node's circuits to introducers, need before they work
const PATIENCE_MS = 2000; // how long a lost connection is left alone: most come back
const OFFER_LOST_MS = 4000; // an offer without an answer for so long counts as lost
const RETRY_MS = 5000; // between two offers to restore a connection
const RECOVERY_MS = 20_000; // a lost connection that is not back by then is given up

const OFFER = 1; // effects.DescriptionKind
const ANSWER = 2;
const CANDIDATES = 3;

const BACKLOG = "the other side sends faster than this node can take it";
const LOST = "the connection to the other side was lost and could not be restored";
const NO_ANSWER = "the other side did not answer";
const NO_PATH =
  "no way from this network to the other side's was found: both may be behind routers that let nothing in";
const NOT_USABLE = "this browser cannot use what the other side said of the connection";
const REMOTE = "the other side closed the connection";
const TOO_MANY = "too many connections";

/**
 * @returns {{port: MessagePort, stop: () => void}} `port` is for the worker; `stop` ends all connections, as the end of
 *   the page does.
 */
export function createBridge() {
  const { port1: port, port2 } = new MessageChannel();
  /** @type {Map<number, Connection>} */
  const connections = new Map();
  const end = (channel, reason) => {
    connections.get(channel)?.close();
    connections.delete(channel);
    port.postMessage({ type: "closed", channel, reason });
  };
  const connect = ({ channel, role, stun }) => {
    if (connections.size >= MAX_CONNECTIONS) return end(channel, TOO_MANY);
    try {
      connections.set(channel, new Connection(channel, role, stun, port, end));
    } catch (error) {
      end(channel, `this browser opens no connection: ${error.message}`);
    }
  };

  port.onmessage = ({ data }) => {
    const connection = connections.get(data.channel);
    if (data.type === "connect") connect(data);
    else if (data.type === "describe") connection?.describe(data.kind, data.sdp);
    else if (data.type === "taken") connection?.taken(data.bytes);
    else if (data.type === "close" && connection) end(data.channel, connection.lost ? LOST : REMOTE);
  };

  const each = (action) => () => connections.forEach(action);
  let settling = null;
  const unwatch = watchNetwork(() => {
    clearTimeout(settling);
    settling = setTimeout(
      each((connection) => connection.moved()),
      SETTLE_MS,
    );
  });
  const watch = setInterval(
    each((connection) => connection.watch()),
    WATCH_MS,
  );
  const stop = () => {
    clearInterval(watch);
    clearTimeout(settling);
    unwatch();
    port.close();
    for (const connection of connections.values()) connection.close();
    connections.clear();
  };
  window.addEventListener("pagehide", stop);
  return { port: port2, stop };
}

class Connection {
  #pc;
  #offers;
  #tell;
  #end;
  #steps = Promise.resolve(); // negotiation, one step after the other
  #held = []; // candidate lines of the other side
  #found = []; // ours, for the next batch
  #batch = null;
  #deadline;
  #retry = null;
  #established = false;
  #offered = -Infinity; // when, ms
  #taken = 0;

  constructor(channel, role, stun, port, end) {
    this.#offers = role === "offer";
    this.#tell = (type, fields, transfer = []) => port.postMessage({ type, channel, ...fields }, transfer);
    this.#end = (reason) => end(channel, reason);
    this.#pc = new RTCPeerConnection({ iceServers: stun.length ? [{ urls: stun }] : [] });
    this.#pc.onconnectionstatechange = () => this.#changed();
    this.#deadline = setTimeout(() => this.#end(this.#pc.remoteDescription ? NO_PATH : NO_ANSWER), OPENING_MS);
    this.#handOver();
    if (this.#offers) this.#offer();
  }

  /** Browsers hand a data channel over in the task that created it, and never later. */
  #handOver() {
    const pipe = this.#pc.createDataChannel("convergence", { negotiated: true, id: 0 });
    try {
      this.#tell("data", { pipe }, [pipe]);
    } catch {
      const forwarded = forward(pipe);
      this.#tell("data", { forwarded }, [forwarded]);
    }
  }

  close() {
    [this.#deadline, this.#retry, this.#batch].forEach(clearTimeout);
    this.#pc.onconnectionstatechange = this.#pc.onicecandidate = null;
    this.#pc.close();
  }

  /** Whether it was open and is no longer: Firefox then closes the data channel on its own, sooner or later. */
  get lost() {
    return this.#established && this.#deadline !== null;
  }

  get #closed() {
    return this.#pc.signalingState === "closed";
  }

  // Negotiation (RFC 8829) --------------------------------------------------------------------------------------------

  /** Applies what the other side says, or ends the connection when that cannot be. */
  describe(kind, sdp) {
    this.#step(NOT_USABLE, async () => {
      const pc = this.#pc;
      if (kind === CANDIDATES) {
        this.#held.push(...sdp.split("\r\n").filter(Boolean));
        if (this.#held.length > MAX_HELD) throw new RangeError("too many candidates");
      } else if (kind === ANSWER) {
        if (pc.signalingState === "stable") return; // an answer to an offer that counted as lost
        await pc.setRemoteDescription({ type: "answer", sdp });
      } else {
        await pc.setRemoteDescription({ type: "offer", sdp });
        await this.#describeOurs(ANSWER, () => pc.createAnswer());
      }
      if (!pc.remoteDescription) return;
      for (const line of this.#held.splice(0))
        await pc.addIceCandidate({ candidate: line.replace(/^a=/, ""), sdpMLineIndex: 0 });
    });
  }

  #offer() {
    const now = performance.now();
    if (now - this.#offered < OFFER_LOST_MS && this.#pc.signalingState !== "stable") return;
    this.#offered = now;
    this.#step("this browser cannot describe a connection", () =>
      this.#describeOurs(OFFER, () => this.#pc.createOffer({ iceRestart: this.#established })),
    );
  }

  async #describeOurs(kind, create) {
    const pc = this.#pc;
    clearTimeout(this.#batch);
    this.#found = [];
    const gathered = new Promise((resolve) => {
      pc.onicecandidate = ({ candidate }) => candidate ?? resolve();
    });
    await pc.setLocalDescription(await create());
    await Promise.race([gathered, new Promise((resolve) => setTimeout(resolve, GATHER_MS))]);
    if (this.#closed) return;
    pc.onicecandidate = ({ candidate }) => candidate?.candidate && this.#late(candidate.candidate);
    this.#tell("described", { kind, sdp: pc.localDescription.sdp });
  }

  #late(candidate) {
    if (this.#found.push(`a=${candidate}\r\n`) > 1) return;
    this.#batch = setTimeout(
      () => this.#tell("described", { kind: CANDIDATES, sdp: this.#found.splice(0).join("") }),
      BATCH_MS,
    );
  }

  #step(failure, action) {
    this.#steps = this.#steps.then(async () => {
      try {
        if (!this.#closed) await action();
      } catch {
        if (!this.#closed) this.#end(failure);
      }
    });
  }

  // Loss and recovery (ICE restart, RFC 8445 section 2.4) -------------------------------------------------------------

  #changed() {
    const state = this.#pc.connectionState;
    if (state === "connected") {
      if (this.#established) this.#atRest();
      this.#tell("state", { state: "connected" });
    } else if (state === "failed" && !this.#established) {
      this.#end(NO_PATH);
    } else if ((state === "disconnected" || state === "failed") && this.#established) {
      if (this.#deadline === null) {
        this.#deadline = setTimeout(() => this.#end(LOST), RECOVERY_MS);
        this.#tell("state", { state: "recovering" });
      }
      if (state === "failed") this.#recover();
      else this.#retry ??= setTimeout(() => this.#recover(), PATIENCE_MS);
    }
  }

  #atRest() {
    clearTimeout(this.#deadline);
    clearTimeout(this.#retry);
    this.#deadline = this.#retry = null;
  }

  /** The offerer offers anew, and again as long as the connection does not come back. */
  #recover() {
    clearTimeout(this.#retry);
    const trying = this.#pc.connectionState === "connecting" && this.#pc.signalingState === "stable";
    if (this.#offers && !trying) this.#offer();
    this.#retry = setTimeout(() => this.#recover(), RETRY_MS);
  }

  /** This machine's network has changed. */
  moved() {
    if (this.#established && this.#offers) this.#offer();
  }

  // Backlog -----------------------------------------------------------------------------------------------------------

  taken(bytes) {
    this.#taken = bytes;
    if (this.#established) return;
    this.#established = true;
    this.#atRest();
  }

  /**
   * Browsers take from the network what comes, whether or not the worker has time for it, and give no way to slow the
   * sender down. Circuits' windows keep honest neighbours far below the limit.
   */
  async watch() {
    const reports = await this.#pc.getStats();
    if (this.#closed) return;
    let received = 0;
    reports.forEach((report) => {
      if (report.type === "data-channel") received += report.bytesReceived;
    });
    if (received - this.#taken > MAX_BACKLOG) this.#end(BACKLOG);
  }
}
