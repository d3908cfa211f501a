// A program as others may write it: convergence.d.ts has to let it pass, and to refuse each line that is marked.

import { ConvergenceError, EndReason, join } from "../../../web/convergence.js";

const stop = new AbortController();
const node = await join({ root: "0".repeat(64), mirrors: ["https://mirror.example/", new URL("https://b.example/")] });
await join({ network: { facilitator: { identity: "", path: "" } }, relay: true, hops: 3, signal: stop.signal });
node.addEventListener("trouble", ({ detail }) => console.log(detail.code, detail.message));
node.addEventListener("nodes", () => console.log(node.nodes + 1));
node.addEventListener("ready", () => {}, { once: true });
await node.ready;

const { readable, writable, closed } = await node.connect("hash:chat", {
  isolation: "a",
  patience: 5,
  signal: stop.signal,
});
await readable
  .pipeThrough(new DecompressionStream("gzip"))
  .pipeThrough(new TextDecoderStream())
  .pipeTo(new WritableStream<string>());
await new Blob(["a"]).stream().pipeThrough(new CompressionStream("gzip")).pipeTo(writable);
await new Response(readable).text();
for await (const part of readable) console.log(part.byteLength);
const text = new TextEncoderStream();
const sent = text.readable.pipeTo(writable);
await writable.abort(EndReason.RESOURCELIMIT);
await Promise.all([closed, sent]);

const service = await node.serve("hash:echo", ({ readable, writable }) => readable.pipeTo(writable), {
  signal: stop.signal,
});
await node.serve({ secret: new Uint8Array(32) }, async (pipe) => pipe.closed);
const address: string = service.address;
service.close();
try {
  await node.connect(address);
} catch (error) {
  if (error instanceof ConvergenceError && error.reason === EndReason.TIMEOUT) console.log(error.code);
}
await node.close();
await node.closed;

// @ts-expect-error: no number is an address
await node.connect(5);
// @ts-expect-error: no such option
await join({ roots: "" });
// @ts-expect-error: pipes carry bytes
await writable.getWriter().write("text");
// @ts-expect-error: it is told, not set
node.nodes = 3;
// @ts-expect-error: whoever serves has to answer
await node.serve("hash:echo");
