/**
 * The ports by which a page has pipes: one for each pipe, and one for each service that the page offers.
 *
 * Does: hand what comes on a port to Python; hand what Python gives to the page, in buffers that change hands, those of
 * one run of Python joined.
 * Does not: count credit, or know where a pipe leads: page_pipes.py does. What the page's end does: web/api/pipe.js.
 *
 * On a port of a pipe, {type, value}:
 *   both ways: data {value: ArrayBuffer}; took {value}: so many bytes of it are used up; end: no more comes from here;
 *     abort {value}: both ways are given up, with this EndReason;
 *   to the page only: open: the far end accepted; over: both ways have ended, and what the page wrote has
 *     arrived as far as the node can tell; an abort has also `why`, a code with its values, or null;
 *   to the worker only: cancel: the page reads no more.
 * On a port of a service: to the page, pipe {value: MessagePort} for each connection that came, standing {value}: at so
 * many points it can be found; to the worker, stop.
 */

import { join } from "./channels.js";

/** @param {object} listener wrote(number, Uint8Array) for data, said(number, type, value) for the rest */
export function createPagePipes(listener) {
  /** @type {Map<number, MessagePort>} */
  const ports = new Map();
  /** @type {Map<number, Uint8Array[]>} */
  const given = new Map(); // until Python returns
  let numbers = 0;

  const flush = (number) => {
    const parts = given.get(number);
    if (!given.delete(number)) return;
    const { buffer } = parts.length > 1 ? join(parts) : parts[0];
    ports.get(number)?.postMessage({ type: "data", value: buffer }, [buffer]);
  };
  const add = (port) => {
    numbers += 1;
    const number = numbers;
    ports.set(number, port);
    port.onmessage = ({ data: { type, value } }) =>
      type === "data" ? listener.wrote(number, new Uint8Array(value)) : listener.said(number, type, value);
    return number;
  };
  const say = (number, type, value = 0, why = "null") => {
    flush(number);
    ports.get(number)?.postMessage({ type, value, why: JSON.parse(why) });
  };

  return {
    /** @returns {number} of this port from now on */
    add,
    /** Hands the page of that service a new pipe; returns its number. */
    offer(service) {
      const { port1, port2 } = new MessageChannel();
      ports.get(service)?.postMessage({ type: "pipe", value: port2 }, [port2]);
      return add(port1);
    },
    /** @param {Uint8Array} data a copy, whose buffer is taken */
    give(number, data) {
      const parts = given.get(number);
      if (parts) parts.push(data);
      else {
        given.set(number, [data]);
        queueMicrotask(() => flush(number));
      }
    },
    /** @param {string} why JSON */
    say,
    /** Nothing more is said on this port; what was said arrives. */
    close(number) {
      flush(number);
      ports.get(number)?.close();
      ports.delete(number);
    },
  };
}
