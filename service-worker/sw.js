/**
 * The service worker: this site's code, as it was when it was accepted, whatever the site serves by now.
 *
 * Does: answer GETs in its scope from the accepted version, with the site's security headers; let those few documents
 * through that the site changes; take its pages' messages.
 * Does not: run the node, see WebSockets or WebRTC, or protect itself: a browser lets a site replace its worker, see
 * docs/threat-model.md.
 *
 * A message is `{type, ...}` with a port for answers: at once `{type: "taken", worker}`, which names this run of the
 * worker; `{type: "progress", done, total}` (bytes) any number of times; then `{type: "done", value}` or
 * `{type: "refused" | "failed", message}`. To all pages: `{type: "status", status}`, `{type: "refused", message}`,
 * `{type: "switched", root}`.
 */

import { Refused } from "../web/code/manifest.js";
import { fetchNetwork, readNetwork } from "../web/code/network.js";
import * as code from "./code.js";
import { headersOf } from "./headers.js";
import { keepDocument, keptDocument } from "./store.js";
import * as updates from "./updates.js";

const NETWORK_WAIT = 10; // seconds that the site may stay silent where an earlier description of the network is kept
const DIGEST = /^[0-9a-f]{64}$/;
const scope = self.registration.scope;
const worker = crypto.randomUUID();
/** What always comes from the site. */
const FROM_SITE = new Set(["manifest.json", "release.json", "releases.txt"]);
const BOOKMARK = new Set(["bookmarklet.html", "bookmarklet.txt"]);

code.onChange(async () => tell({ type: "status", status: await code.status() }));

// A page registers a worker only when that worker's code is to run now.
self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  const { method, url, mode } = event.request;
  if (!url.startsWith(scope)) return;
  // Some programs write "%23" for "#" in a share link: the page mends its address.
  const path = new URL(url).pathname.slice(new URL(scope).pathname.length);
  const name = path.replace(/^%(?:25)*23.*/, "") || "index.html";
  const shown = mode === "navigate"; // whatever is shown under this address could run here
  if (method !== "GET") {
    if (shown) event.respondWith(text(405, "There is nothing here that takes this.\n"));
  } else if (BOOKMARK.has(name) || (shown && FROM_SITE.has(name))) event.respondWith(powerless(event.request, name));
  else if (!FROM_SITE.has(name)) event.respondWith(answer(event, name));
});

/** @param {FetchEvent} event @param {string} name of the file in its scope */
async function answer(event, name) {
  let bytes;
  try {
    if (await forBookmark(event)) return fetch(event.request);
    if (name === "network.json") return await network();
    bytes = await code.give(name);
  } catch (error) {
    const message = worded(error);
    event.waitUntil(tell({ type: "refused", message }));
    return text(
      502,
      `Convergence stopped here, to run nothing that is not the accepted version.\n\n${message}\n\n` +
        "Another mirror may still have it: see the bookmarklet in the documentation.\n",
    );
  }
  if (bytes === undefined) return fetch(event.request);
  return bytes
    ? new Response(bytes, { headers: headersOf(name) })
    : text(404, "There is nothing here: the accepted version has no such file.\n");
}

/** An error for people: a refusal, a fault of the browser's storage, or a defect. */
function worded(error) {
  if (error instanceof Refused) return error.message;
  if (error instanceof DOMException) {
    const why = `This browser does not let the page keep its code (${error.message}).`;
    return `${why} Free some space on this device, or use another profile or window.`;
  }
  return `The service worker met an error of its own (${error.message}). Reload the page to try again.`;
}

const text = (status, body) => new Response(body, { status, headers: headersOf("said.txt") });

/** Whether a bookmark asks, clicked on open.html: it has a root hash of its own and wants the site's files. */
async function forBookmark({ request, clientId }) {
  const client = request.destination === "" && clientId ? await self.clients.get(clientId) : null;
  return Boolean(client) && new URL(client.url).pathname.endsWith("/open.html");
}

/** What the site has. It names a root hash, so no manifest lists it. Under our policy it can run only our files. */
async function powerless(request, name) {
  const answer = await fetch(request).catch(() => null);
  if (answer?.ok) return new Response(answer.body, { headers: headersOf(name) });
  return text(
    404,
    `This site does not give ${name} now. Take a bookmark from somebody you trust, or build it: ` +
      "docs/verify.md in the program's source says how.\n",
  );
}

/** Where the network is: from the site, or as it said the last time. */
async function network() {
  const headers = { ...headersOf("network.json"), "Cache-Control": "no-store" };
  const kept = await keptDocument("network.json").catch(() => null);
  try {
    const bytes = await fetchNetwork(scope, kept ? { patience: NETWORK_WAIT } : {});
    readNetwork(bytes); // throws for anything else, such as the page of whoever took over the address
    await keepDocument("network.json", bytes).catch(() => {});
    return new Response(bytes, { headers });
  } catch (error) {
    return kept
      ? new Response(kept, { headers })
      : text(504, `The site does not say where its network is: ${error.message}\n`);
  }
}

// Messages ------------------------------------------------------------------------------------------------------------

const isRoot = (value) => typeof value === "string" && DIGEST.test(value);

/** Type of message -> what its arguments must be, and what is done. */
const TAKEN = {
  status: { fits: () => true, run: code.status },
  claim: { fits: () => true, run: () => self.clients.claim() },
  install: { fits: ({ manifest }) => manifest instanceof Uint8Array, run: install },
  look: { fits: () => true, run: updates.look },
  accept: { fits: ({ root }) => isRoot(root), run: ({ root }, _, progress) => updates.accept(root, progress) },
  switch: { fits: ({ root }) => isRoot(root), run: change },
  decline: { fits: ({ root }) => isRoot(root), run: ({ root }) => updates.decline(root) },
  automatic: { fits: ({ on }) => typeof on === "boolean", run: ({ on }) => updates.setAutomatic(on) },
  settle: { fits: () => true, run: () => code.settle() },
};

self.addEventListener("message", (event) => {
  const { data, source, ports } = event;
  if (!source?.url?.startsWith(scope) || ports.length !== 1) return;
  const taken = Object.hasOwn(TAKEN, data?.type) ? TAKEN[data.type] : null;
  if (taken?.fits(data)) event.waitUntil(take(taken, event, ports[0]));
});

async function take({ run }, event, port) {
  const progress = (done, total) => port.postMessage({ type: "progress", done, total });
  port.postMessage({ type: "taken", worker });
  try {
    port.postMessage({ type: "done", value: await run(event.data, event, progress) });
  } catch (error) {
    port.postMessage({ type: error instanceof Refused ? "refused" : "failed", message: worded(error) });
  }
}

async function install({ manifest }, event, progress) {
  const { written } = await code.install(manifest, progress);
  event.waitUntil(written);
  return code.status();
}

async function change({ root }) {
  await updates.switchTo(root);
  await tell({ type: "switched", root });
}

async function tell(message) {
  for (const client of await self.clients.matchAll({ type: "window" })) client.postMessage(message);
}
