/**
 * A pipe for programs: Web Streams over a port to the node's worker (worker/page_pipes.js lists the messages).
 *
 * Does: hand out what came only when it is read, and give credit for it then; write no more than WINDOW ahead of what the
 * node takes; end each way by itself; give both up by AbortSignal, `abort` or an error.
 * Does not: know where the pipe leads.
 */

import { EndReason, ended, errorOf } from "./errors.js";

export const WINDOW = 1 << 18; // bytes written that the node has not taken
const CHUNK = 1 << 16; // bytes that go to the worker in one message

const MOST = 255; // an EndReason is one byte on its way

/** What the far end hears of a reason to give up: its number, or that of an error that has one. */
function numberOf(reason) {
  const number = typeof reason === "number" ? reason : reason?.reason;
  return Number.isInteger(number) && number > 0 && number <= MOST ? number : EndReason.MISC;
}

function bytesOf(chunk) {
  if (chunk instanceof ArrayBuffer) return new Uint8Array(chunk);
  if (ArrayBuffer.isView(chunk)) return new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.byteLength);
  throw new TypeError("A pipe carries bytes: an ArrayBuffer or a view of one (for text, a TextEncoderStream).");
}

/**
 * @param {MessagePort} port
 * @param {object} options
 * @param {AbortSignal} [options.signal] Gives it up.
 * @param {(over: Function) => void} options.onOver Told once, when both ways are over.
 * @returns {{pipe: {readable: ReadableStream<Uint8Array>, writable: WritableStream, closed: Promise<void>},
 *   opened: Promise<void>, fail: (error: any) => void, giveUp: (reason: any) => void}} `giveUp` tells the far end, `fail`
 *   does not.
 */
export function createPipe(port, { signal, onOver }) {
  const opened = Promise.withResolvers();
  const closed = Promise.withResolvers();
  const came = []; // messages that were not read: no more than a stream's window
  let [more, room] = [null, null]; // what a read, and a write, wait for
  let unsent = 0;
  let [said, over] = [false, false]; // we write no more; both ways have ended, or were given up
  let [reading, writing] = [null, null]; // the streams' controllers

  const tell = (type, value = 0, transfer = []) => port.postMessage({ type, value }, transfer);
  const settle = (error) => {
    if (over) return;
    over = true;
    signal?.removeEventListener("abort", onSignal);
    if (error === undefined) closed.resolve();
    else {
      closed.reject(error);
      opened.reject(error);
    }
    if (!said || error) {
      const why = error ?? ended(EndReason.DONE); // what leads to a host on the web ends both ways at once
      room?.reject(why);
      if (!writing.signal.aborted) writing.error(why); // else `abort` has done so, and would be told of another failure
    }
    port.close();
    onOver(fail);
  };
  /** What came before is read first. */
  const lost = (error) => {
    came.push({ error });
    more?.resolve();
    settle(error);
  };
  const fail = (error) => {
    if (over) return;
    came.length = 0;
    lost(error);
    reading.error(error);
  };
  const giveUp = (reason) => {
    if (over) return;
    tell("abort", numberOf(reason));
    fail(reason);
  };
  const onSignal = () => giveUp(signal.reason);

  const readable = new ReadableStream(
    {
      type: "bytes",
      start: (controller) => {
        reading = controller;
      },
      async pull() {
        if (!came.length) {
          more = Promise.withResolvers();
          await more.promise;
          more = null;
        }
        const { value, error } = came.shift() ?? {}; // nothing: it was cancelled, or has failed
        if (value) {
          if (!over) tell("took", value.byteLength);
          reading.enqueue(new Uint8Array(value));
        } else if (error) reading.error(error);
        else if (value === null) {
          reading.close();
          reading.byobRequest?.respond(0);
        }
      },
      cancel() {
        came.length = 0;
        more?.resolve();
        if (!over) tell("cancel");
      },
    },
    { highWaterMark: 0 },
  );

  const writable = new WritableStream({
    start: (controller) => {
      writing = controller;
      controller.signal.addEventListener("abort", () => giveUp(controller.signal.reason));
    },
    async write(chunk) {
      try {
        const bytes = bytesOf(chunk);
        for (let at = 0; at < bytes.length; at += CHUNK) {
          if (unsent > WINDOW - CHUNK) {
            room = Promise.withResolvers();
            await room.promise;
          }
          const { buffer } = bytes.slice(at, at + CHUNK);
          unsent += buffer.byteLength;
          tell("data", buffer, [buffer]);
        }
      } catch (error) {
        giveUp(error);
        throw error;
      }
    },
    close() {
      said = true;
      tell("end");
    },
  });

  const take = {
    open: () => opened.resolve(),
    data: ({ value }) => {
      came.push({ value });
      more?.resolve();
    },
    took: ({ value }) => {
      unsent -= value;
      if (unsent <= WINDOW - CHUNK) room?.resolve();
    },
    end: () => take.data({ value: null }),
    over: () => settle(),
    abort: ({ value, why }) => lost(why ? errorOf(why, value) : ended(value)),
  };
  port.onmessage = ({ data }) => over || take[data.type](data);
  for (const { promise } of [opened, closed]) promise.catch(() => {}); // whoever awaits them is told
  if (signal?.aborted) onSignal();
  else signal?.addEventListener("abort", onSignal);

  return { pipe: { readable, writable, closed: closed.promise }, opened: opened.promise, fail, giveUp };
}
