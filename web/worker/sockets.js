/**
 * Does: open WebSockets for the node; hand what arrived together to Python in one call; tell when a socket is congested.
 * Does not: look into what is sent. Browsers give no way to stop reading a WebSocket.
 */

const HIGH_WATER = 1 << 20; // bytes that wait in the browser's send buffer: from here on the channel is congested
const LOW_WATER = 1 << 18; // bytes: from here on it no longer is
const POLL_MS = 8; // how often a congested socket is looked at; browsers have no event for it
const BATCH_LIMIT = 1 << 18; // bytes that are held back at most to be joined with what comes next

/**
 * @param {{opened: Function, received: Function, closed: Function, drained: Function}} listener
 *   opened(channel), received(channel, Uint8Array), closed(channel, reason), drained(channel)
 * @returns {{connect: Function, send: Function, close: Function}}
 */
export function createSockets(listener) {
  /** @type {Map<number, {socket: WebSocket, parts: Uint8Array[], size: number, congested: boolean, open: boolean}>} */
  const channels = new Map();
  const arrived = new Set();
  const { port1: later, port2: now } = new MessageChannel();
  let poll = null;

  const deliver = (channel) => {
    const entry = channels.get(channel);
    arrived.delete(channel);
    if (!entry?.size) return;
    const data = entry.parts.length === 1 ? entry.parts[0] : join(entry.parts, entry.size);
    entry.parts = [];
    entry.size = 0;
    listener.received(channel, data);
  };
  // Each message is a task of its own; a task posted at the first one runs behind all that are there by then.
  now.onmessage = () => [...arrived].forEach(deliver);

  const watch = () => {
    let left = false;
    for (const [channel, entry] of channels) {
      if (!entry.congested) continue;
      if (entry.socket.bufferedAmount <= LOW_WATER) {
        entry.congested = false;
        listener.drained(channel);
      }
      left ||= entry.congested;
    }
    poll = left ? setTimeout(watch, POLL_MS) : null;
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
      const entry = { socket, parts: [], size: 0, congested: false, open: false };
      channels.set(channel, entry);
      socket.binaryType = "arraybuffer";
      socket.onopen = () => {
        entry.open = true;
        listener.opened(channel);
      };
      socket.onmessage = ({ data }) => {
        if (typeof data === "string") {
          socket.close(1003);
          return;
        }
        entry.parts.push(new Uint8Array(data));
        entry.size += data.byteLength;
        if (entry.size >= BATCH_LIMIT) deliver(channel);
        else if (!arrived.has(channel)) {
          arrived.add(channel);
          if (arrived.size === 1) later.postMessage(null);
        }
      };
      socket.onclose = ({ reason }) => {
        deliver(channel);
        if (channels.get(channel) !== entry) return; // Python closed it in answer to the last bytes
        channels.delete(channel);
        listener.closed(channel, reason || (entry.open ? "the connection was closed" : "no connection could be made"));
      };
    },

    /** Sends one message (the browser copies the view at once). @returns {boolean} false when the channel is now congested */
    send(channel, view) {
      const entry = channels.get(channel);
      if (!entry?.open) return true; // it closed while this was on its way: closed() has been or will be said
      entry.socket.send(view);
      if (entry.socket.bufferedAmount < HIGH_WATER) return true;
      entry.congested = true;
      poll ??= setTimeout(watch, POLL_MS);
      return false;
    },

    /** Closes after what was sent is flushed. Nothing more is said of the channel. */
    close(channel) {
      const entry = channels.get(channel);
      channels.delete(channel);
      arrived.delete(channel);
      if (!entry) return;
      entry.socket.onopen = entry.socket.onmessage = entry.socket.onclose = null;
      entry.socket.close(1000);
    },
  };
}

function join(parts, size) {
  const whole = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
