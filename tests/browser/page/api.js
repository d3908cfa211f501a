/**
 * A page of somebody's, with convergence.js from a mirror: what tests/browser/test_api.py has it do.
 *
 * Does: lend the tests the module, and what they do with pipes again and again.
 * Does not: decide when a test has passed.
 */

import * as convergence from "MIRROR/convergence.js";

const EXCHANGED = 5 << 20; // bytes each way
const ROUNDS = 20; // echoes in which a writer that gets nowhere must not get on

/** Pipes, services and results, by the tests' names for them. `when`: once it is there. */
const kept = {
  values: new Map(),
  slot(name) {
    if (!this.values.has(name)) this.values.set(name, Promise.withResolvers());
    return this.values.get(name);
  },
  set(name, value) {
    Object.assign(this.slot(name), { value }).resolve(value);
  },
  get(name) {
    return this.slot(name).value;
  },
  when(name) {
    return this.slot(name).promise;
  },
};
let node = null;

const text = (bytes) => new TextDecoder().decode(bytes);
const bytes = (words) => new TextEncoder().encode(words);
const hex = (buffer) => Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");
const digest = async (blob) => hex(await crypto.subtle.digest("SHA-256", await blob.arrayBuffer()));
const all = (readable) => new Response(readable).blob();

/** What a promise's failure is, for Python. */
const failure = (promise) =>
  promise.then(
    () => null,
    ({ name, code, reason, message }) => ({ name, code, reason: reason ?? null, message }),
  );

function random(size) {
  const data = new Uint8Array(size);
  for (let at = 0; at < size; at += 65536) crypto.getRandomValues(data.subarray(at, at + 65536));
  return data;
}

async function write(writable, data) {
  const writer = writable.getWriter();
  await writer.write(data);
  await writer.close();
}

/** One echo on a pipe that leads to `echo`. */
async function echo({ readable, writable }, word) {
  const [writer, reader] = [writable.getWriter(), readable.getReader()];
  await writer.write(bytes(word));
  let got = "";
  while (got.length < word.length) got += text((await reader.read()).value);
  writer.releaseLock();
  reader.releaseLock();
  return got;
}

/** What a page serves, by the name after "hash:". */
const services = {
  /** Tells Python what it sent and got. */
  exchange: async (pipe) => kept.set("exchanged", await exchange(pipe, EXCHANGED)),
  answers: async ({ readable, writable }) => {
    const asked = await (await all(readable)).text();
    await write(writable, bytes(`${asked}? yes`));
  },
  greets: async ({ readable, writable }) => {
    await write(writable, bytes("hello"));
    kept.set("greeted", await (await all(readable)).text());
  },
  zipped: ({ readable, writable }) =>
    readable.pipeThrough(new DecompressionStream("gzip")).pipeThrough(new CompressionStream("gzip")).pipeTo(writable),
  deaf: (pipe) => kept.set("deaf", pipe),
  busy: ({ writable }) => writable.abort(convergence.EndReason.RESOURCELIMIT),
  "last words": async ({ writable }) => {
    const writer = writable.getWriter();
    await writer.write(bytes("last words"));
    kept.set("writer", writer);
  },
  throws: () => {
    throw new Error("thrown by the handler");
  },
  short: () => {},
};
const repeat = ({ readable, writable }) => readable.pipeTo(writable);

async function exchange({ readable, writable }, size) {
  const data = random(size);
  const [got] = await Promise.all([all(readable), write(writable, data)]);
  return { sent: await digest(new Blob([data])), received: await digest(got), size: got.size };
}

Object.assign(globalThis, {
  api: {
    ...convergence,
    failure,
    repeat,
    kept,
    exchange: (pipe) => exchange(pipe, EXCHANGED),
    get node() {
      return node;
    },
    /** @param {string[]} names of `services` */
    async join(options, names = []) {
      node = await convergence.join(options);
      const offered = names.map(async (name) => [name, await node.serve(`hash:${name}`, services[name] ?? repeat)]);
      for (const [name, service] of await Promise.all(offered)) kept.set(`service ${name}`, service);
      return Object.keys(globalThis);
    },
    async echoes(address, count, options) {
      const pipes = await Promise.all(Array.from({ length: count }, () => node.connect(address, options)));
      const said = await Promise.all(pipes.map((pipe, number) => echo(pipe, `number ${number}`)));
      await Promise.all(pipes.map(({ writable }) => writable.close()));
      await Promise.all(pipes.map(({ closed }) => closed));
      return said;
    },
    /** Writes `size` bytes to who does not read; gives how many were taken once no more are. */
    async stuck(address, other, size) {
      const [pipe, beside] = [await node.connect(address), await node.connect(other)];
      const writer = pipe.writable.getWriter();
      const piece = random(16384);
      let taken = 0;
      const writing = (async () => {
        for (let at = 0; at < size; at += piece.length) {
          await writer.write(piece);
          taken += piece.length;
        }
        await writer.close();
      })();
      let before = -1;
      for (let same = 0; same < ROUNDS; same++) {
        await echo(beside, "still there");
        if (taken !== before) same = 0;
        before = taken;
      }
      kept.set("writing", writing);
      await beside.writable.close();
      return taken;
    },
    async sayThenHear(address, words) {
      const { readable, writable, closed } = await node.connect(address);
      await write(writable, bytes(words));
      const heard = await (await all(readable)).text();
      await closed;
      return heard;
    },
    async hearThenSay(address, words) {
      const { readable, writable, closed } = await node.connect(address);
      const heard = await (await all(readable)).text();
      await write(writable, bytes(words));
      await closed;
      return heard;
    },
    async gzip(address, words) {
      const { readable, writable } = await node.connect(address);
      const sent = new Blob([words]).stream().pipeThrough(new CompressionStream("gzip")).pipeTo(writable);
      const heard = await new Response(readable.pipeThrough(new DecompressionStream("gzip"))).text();
      await sent;
      return heard === words;
    },
    text,
    bytes,
    all,
    write,
  },
});
