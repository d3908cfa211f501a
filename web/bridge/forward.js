/**
 * Data channels for a browser that does not hand them to workers.
 *
 * Does: both ends of forwarding. The page keeps the RTCDataChannel and passes messages over a port; the worker has an
 * object that it uses like the channel. Bytes that the page has taken and the network has not count as buffered, so
 * that a sender stops at the same mark.
 * Does not: hold back what arrives: no browser can (see the watch in rtc.js).
 *
 * On the port: an ArrayBuffer is a message, either way; page to worker "open", "close" and a number: bytes that have
 * left the page's buffer; worker to page "close".
 */

const LOW_WATER = 1 << 18; // bytes in the channel's buffer; below it the worker is told how many bytes have left

/** @param {RTCDataChannel} channel one that is not open yet @returns {MessagePort} for `Forwarded` in the worker */
export function forward(channel) {
  const { port1: port, port2: end } = new MessageChannel();
  let taken = 0; // bytes that the worker was not told of
  const credit = () => {
    if (taken && channel.bufferedAmount <= channel.bufferedAmountLowThreshold) {
      port.postMessage(taken);
      taken = 0;
    }
  };
  channel.binaryType = "arraybuffer";
  channel.bufferedAmountLowThreshold = LOW_WATER;
  channel.onbufferedamountlow = credit;
  channel.onopen = () => port.postMessage("open");
  channel.onmessage = ({ data }) => (typeof data === "string" ? channel.close() : port.postMessage(data, [data]));
  channel.onclose = () => {
    port.postMessage("close");
    port.close();
  };
  port.onmessage = ({ data }) => {
    if (data === "close") {
      channel.close();
    } else if (channel.readyState === "open") {
      channel.send(data);
      taken += data.byteLength;
      credit();
    }
  };
  return end;
}

/** What the node uses of an RTCDataChannel, in the worker. */
export class Forwarded {
  bufferedAmount = 0;
  bufferedAmountLowThreshold = 0;
  readyState = "connecting";
  onopen = null;
  onmessage = null;
  onbufferedamountlow = null;
  onclose = null;
  #port;

  /** @param {MessagePort} port what `forward` gave */
  constructor(port) {
    this.#port = port;
    port.onmessage = ({ data }) => {
      if (data === "open") {
        this.readyState = "open";
        this.onopen?.();
      } else if (data === "close") {
        this.readyState = "closed";
        port.close();
        this.onclose?.();
      } else if (typeof data === "number") this.#left(data);
      else this.onmessage?.({ data });
    };
  }

  #left(bytes) {
    const before = this.bufferedAmount;
    this.bufferedAmount -= bytes;
    if (before > this.bufferedAmountLowThreshold && this.bufferedAmount <= this.bufferedAmountLowThreshold)
      this.onbufferedamountlow?.();
  }

  /** @param {Uint8Array} view copied at once */
  send(view) {
    const data = view.slice().buffer;
    this.bufferedAmount += data.byteLength;
    this.#port.postMessage(data, [data]);
  }

  close() {
    this.readyState = "closing";
    this.#port.postMessage("close");
  }
}
