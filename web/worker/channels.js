/**
 * Does: open WebSockets and WebRTC data channels for the node; hand what arrived together to Python in one call; tell
 * when a channel is congested.
 * Does not: look into what is sent, or stop reading: browsers give no way to do that. WebRTC connections are made in
 * the page (web/bridge/rtc.js, which lists the messages).
 */

import { Forwarded } from "../bridge/forward.js";

const HIGH_WATER = 1 << 20; // bytes in the browser's send buffer; with so many a channel is congested
const LOW_WATER = 1 << 18; // bytes; with no more it is congested no longer
const POLL_MS = 8; // how often a congested WebSocket is looked at; browsers have no event for it
const BATCH_LIMIT = 1 << 18; // bytes that are held back at most to be joined with what comes next
const REPORT_STEP = 1 << 20; // bytes from a data channel after which the bridge is told how many Python was given
const FLUSH_MS = 5000; // in which a data channel that is closed must send something of what is left
const FLUSHES = 12; // after so many times FLUSH_MS it is ended, whatever is left

/**
 * @typedef {object} Entry
 * @property {WebSocket|RTCDataChannel|Forwarded|null} pipe null until the bridge gives the data channel
 * @property {Uint8Array[]} parts what arrived and was not delivered, `size` bytes
 * @property {number} taken bytes delivered; `told` of them the bridge knows of
 */

/**
 * @param {object} listener opened(channel), received(channel, Uint8Array), closed(channel, reason), drained(channel);
 *   for WebRTC also described(channel, kind, sdp), state(channel, "connected"|"recovering")
 * @param {{port: MessagePort, stun: string[]}|null} rtc the page's bridge; null where there is no WebRTC
 */
export function createChannels(listener, rtc) {
  /** @type {Map<number, Entry>} */
  const channels = new Map();
  const arrived = new Set();
  const { port1: later, port2: now } = new MessageChannel();
  let watching = false; // whether a look at congested WebSockets is due

  const add = (channel, pipe) => {
    const entry = { pipe, parts: [], size: 0, congested: false, taken: 0, told: 0 };
    channels.set(channel, entry);
    return entry;
  };

  const deliver = (channel) => {
    const entry = channels.get(channel);
    arrived.delete(channel);
    if (!entry?.size) return;
    const data = entry.parts.length === 1 ? entry.parts[0] : join(entry.parts);
    entry.parts = [];
    entry.size = 0;
    listener.received(channel, data);
    entry.taken += data.length;
  };
  // Each message is a task of its own; a task posted at the first one runs behind all that are there by then.
  now.onmessage = () => {
    for (const channel of [...arrived]) deliver(channel);
  };

  const take = (channel, entry, data) => {
    entry.parts.push(new Uint8Array(data));
    entry.size += data.byteLength;
    if (entry.size >= BATCH_LIMIT) deliver(channel);
    else if (!arrived.has(channel)) {
      arrived.add(channel);
      if (arrived.size === 1) later.postMessage(null);
    }
  };

  const gone = (channel, entry, reason) => {
    deliver(channel);
    if (channels.get(channel) !== entry) return; // Python closed it in answer to the last bytes
    channels.delete(channel);
    listener.closed(channel, reason);
  };

  const drain = (channel, entry) => {
    if (!entry.congested) return;
    entry.congested = false;
    listener.drained(channel);
  };

  const watch = () => {
    if (!watching) setTimeout(look, POLL_MS);
    watching = true;
  };
  const look = () => {
    watching = false;
    for (const [channel, entry] of channels) {
      if (!entry.congested || !(entry.pipe instanceof WebSocket)) continue;
      if (entry.pipe.bufferedAmount <= LOW_WATER) drain(channel, entry);
      if (entry.congested) watch();
    }
  };

  // Data channels -----------------------------------------------------------------------------------------------------

  const bridge = (type, channel, fields) => rtc.port.postMessage({ type, channel, ...fields });

  const attach = (channel, entry, pipe) => {
    const opened = () => {
      bridge("taken", channel, { bytes: 0 });
      listener.opened(channel);
    };
    entry.pipe = pipe;
    pipe.binaryType = "arraybuffer";
    pipe.bufferedAmountLowThreshold = LOW_WATER;
    pipe.onopen = opened;
    pipe.onmessage = ({ data }) => {
      if (typeof data === "string") return pipe.close();
      take(channel, entry, data);
      if (entry.taken - entry.told < REPORT_STEP) return;
      entry.told = entry.taken;
      bridge("taken", channel, { bytes: entry.taken });
    };
    pipe.onbufferedamountlow = () => drain(channel, entry);
    pipe.onclose = () => bridge("close", channel); // answered by `closed`, with the reason
    if (pipe.readyState === "open") opened();
  };

  const fromBridge = {
    data: (channel, entry, { pipe, forwarded }) => attach(channel, entry, pipe ?? new Forwarded(forwarded)),
    described: (channel, _, { kind, sdp }) => listener.described(channel, kind, sdp),
    state: (channel, _, { state }) => listener.state(channel, state),
    closed: (channel, entry, { reason }) => gone(channel, entry, reason),
  };
  if (rtc) {
    rtc.port.onmessage = ({ data }) => {
      const entry = channels.get(data.channel);
      if (entry) fromBridge[data.type](data.channel, entry, data);
    };
  }

  /** Ends a data channel once what was sent has left: its own end comes after that. */
  const finish = (channel, pipe) => {
    let left = pipe.bufferedAmount;
    let looks = 0;
    const end = () => {
      clearInterval(timer);
      bridge("close", channel);
    };
    const timer = setInterval(() => {
      if (++looks === FLUSHES || pipe.bufferedAmount === left) end();
      left = pipe.bufferedAmount;
    }, FLUSH_MS);
    pipe.onmessage = null;
    pipe.onclose = end;
    pipe.onbufferedamountlow = () => pipe.close();
    pipe.bufferedAmountLowThreshold = 0;
    if (pipe.bufferedAmount === 0) pipe.close();
  };

  return {
    /** Opens a WebSocket as this channel; answers with opened or closed. */
    connect(channel, url) {
      let socket;
      try {
        socket = new WebSocket(url);
      } catch {
        queueMicrotask(() => listener.closed(channel, "not a WebSocket address that this page may open"));
        return;
      }
      const entry = add(channel, socket);
      let reached = false;
      socket.binaryType = "arraybuffer";
      socket.onopen = () => {
        reached = true;
        listener.opened(channel);
      };
      socket.onmessage = ({ data }) => (typeof data === "string" ? socket.close(1003) : take(channel, entry, data));
      socket.onclose = ({ reason }) =>
        gone(channel, entry, reason || (reached ? "the connection was closed" : "no connection could be made"));
    },

    /**
     * Opens a data channel as this channel; answers with described and opened, or closed.
     * @param {"offer"|"answer"} role
     */
    connectRtc(channel, role) {
      if (!rtc) {
        queueMicrotask(() => listener.closed(channel, "this site or this browser has no WebRTC"));
        return;
      }
      add(channel, null);
      bridge("connect", channel, { role, stun: rtc.stun });
    },

    /** What the other side says of a data channel. @param {number} kind effects.DescriptionKind */
    describe: (channel, kind, sdp) => bridge("describe", channel, { kind, sdp }),

    /**
     * Sends one message; the browser copies the view at once.
     * @returns {boolean} false when the channel is now congested
     */
    send(channel, view) {
      const entry = channels.get(channel);
      if (!isOpen(entry?.pipe)) return true; // it closed meanwhile: the node has been told, or will be
      entry.pipe.send(view);
      if (entry.pipe.bufferedAmount < HIGH_WATER) return true;
      entry.congested = true;
      if (entry.pipe instanceof WebSocket) watch();
      return false;
    },

    /** Closes after what was sent is flushed. Nothing more is said of the channel. */
    close(channel) {
      const entry = channels.get(channel);
      channels.delete(channel);
      arrived.delete(channel);
      if (!entry) return;
      const { pipe } = entry;
      if (pipe instanceof WebSocket) {
        pipe.onopen = pipe.onmessage = pipe.onclose = null;
        pipe.close(1000);
      } else if (isOpen(pipe)) finish(channel, pipe);
      else bridge("close", channel);
    },
  };
}

function isOpen(pipe) {
  return pipe?.readyState === WebSocket.OPEN || pipe?.readyState === "open";
}

/** @param {Uint8Array[]} parts @returns {Uint8Array} all of them in one buffer */
export function join(parts) {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
