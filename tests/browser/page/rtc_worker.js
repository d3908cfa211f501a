// A node's worker without the node: the channels of web/worker/, and a pattern to send over them and to check.
import { createChannels } from "../../../web/worker/channels.js";

const MESSAGE = 127 * 514; // bytes, the largest that links send
const word = (position) => Math.imul(position + 1, 2654435761);

const sending = new Map(); // channel -> {at, size} in bytes
const taken = new Map(); // channel -> bytes
let channels = null;
let highest = 0; // bytes in a channel's send buffer

const send = RTCDataChannel.prototype.send;
RTCDataChannel.prototype.send = function (data) {
  send.call(this, data);
  highest = Math.max(highest, this.bufferedAmount);
};

const tell = (event, channel, fields) => self.postMessage({ event, channel, ...fields });

function pattern(at, length) {
  const words = new Uint32Array(Math.ceil(length / 4));
  for (let i = 0; i < words.length; i++) words[i] = word(at / 4 + i);
  return new Uint8Array(words.buffer, 0, length);
}

function pump(channel) {
  const job = sending.get(channel);
  if (!job) return;
  while (job.at < job.size) {
    const length = Math.min(job.step, job.size - job.at);
    const flowing = channels.send(channel, pattern(job.at, length));
    job.at += length;
    if (!flowing && !job.heedless) return;
  }
  sending.delete(channel);
  tell("sent", channel, { highest });
}

const listener = {
  opened: (channel) => tell("opened", channel),
  described: (channel, kind, sdp) => tell("described", channel, { kind, sdp }),
  state: (channel, state) => tell("state", channel, { state }),
  drained: pump,
  received(channel, data) {
    const before = taken.get(channel) ?? 0;
    const expected = pattern(before - (before % 4), data.length + (before % 4)).subarray(before % 4);
    if (data.some((byte, i) => byte !== expected[i])) tell("garbled", channel, { before });
    taken.set(channel, before + data.length);
    tell("received", channel, { total: before + data.length });
  },
  closed: (channel, reason) => tell("closed", channel, { reason, total: taken.get(channel) ?? 0 }),
};

self.onmessage = ({ data }) => {
  if (data.type === "bridge") channels = createChannels(listener, data.port && { port: data.port, stun: data.stun });
  else if (data.send) {
    sending.set(data.channel, { at: 0, step: MESSAGE - (MESSAGE % 4), ...data.send });
    pump(data.channel);
  } else if (data.sleep) Atomics.wait(data.sleep, 0, 0);
  else channels[data.call](...data.args);
};
