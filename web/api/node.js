/**
 * A node for programs: its worker, seen from the page.
 *
 * Does: start the worker and the bridge to WebRTC; connect and serve; tell what happens by events; end it all.
 * Does not: verify or fetch code (convergence.js), or carry bytes (pipe.js).
 */

import { watchNetwork } from "../bridge/network.js";
import { createBridge } from "../bridge/rtc.js";
import { DEFAULTS } from "../ui/settings.js";
import { ConvergenceError, EndReason, errorOf } from "./errors.js";
import { createPipe } from "./pipe.js";

const READY_WITHIN = 60_000; // ms in which a node finds the network, before a connection is given up
const STOP_WITHIN = 3000; // ms for its good-bye
const PATIENCE = 10; // seconds in which it is no final answer that nobody offers a service

const closed = () => new ConvergenceError("closed", "This node was closed.");

let policy = null;

/** Pages with Trusted Types allow the policy "convergence" for this: nothing but our own worker passes it. */
function runnable(address) {
  if (!globalThis.trustedTypes) return address;
  policy ??= globalThis.trustedTypes.createPolicy("convergence", { createScriptURL: (given) => given });
  return policy.createScriptURL(address);
}

/** `promise`, or what aborts `signal` before. */
function unless(signal, promise) {
  if (!signal) return promise;
  const stopped = Promise.withResolvers();
  const stop = () => stopped.reject(signal.reason);
  if (signal.aborted) stop();
  signal.addEventListener("abort", stop);
  return Promise.race([promise, stopped.promise]).finally(() => signal.removeEventListener("abort", stop));
}

/** Events: "ready" once circuits stand; "nodes" when their number changed; "trouble", whose `detail` is an error. */
export class Node extends EventTarget {
  /** How many nodes of the network are known. */
  nodes = 0;
  /** Resolves when it is over by `close`; rejects when it failed. */
  closed;
  /** Resolves once circuits stand. */
  ready;
  #worker;
  #bridge = globalThis.RTCPeerConnection ? createBridge() : null;
  #unwatch;
  #started = Promise.withResolvers();
  #ready = Promise.withResolvers();
  #closed = Promise.withResolvers();
  #over = null; // why
  #stands = false;
  #trouble = null;
  #numbers = 0;
  #answers = new Map(); // to commands, by number
  #pipes = new Set(); // the `fail` of each

  /**
   * @param {string} worker Address of the worker's program.
   * @param {object} code As worker/worker.js takes it.
   * @param {{relay: boolean, hops: number}} options
   */
  constructor(worker, code, { relay, hops }) {
    super();
    this.closed = this.#closed.promise;
    this.ready = this.#ready.promise;
    for (const promise of [this.closed, this.ready, this.#started.promise]) promise.catch(() => {});
    this.#worker = new Worker(runnable(worker), { type: "module", name: "convergence-node" });
    this.#worker.onmessage = ({ data }) => (data.type === "state" ? this.#show(data.state) : this.#settle(data));
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#end(
        new ConvergenceError(
          "start",
          `The node's program cannot run: ${event.message || "the page's policy may forbid it"}.`,
        ),
      );
    };
    const port = this.#bridge?.port ?? null;
    const settings = { ...DEFAULTS, relay, hops };
    const message = { type: "start", port, code, settings, onMetered: false, restore: false };
    this.#worker.postMessage(message, port ? [port] : []);
    this.#unwatch = watchNetwork(() => this.#worker.postMessage({ type: "moved" }));
  }

  /** When it takes commands. */
  get started() {
    return this.#started.promise;
  }

  async connect(address, { signal, isolation = "", patience = PATIENCE } = {}) {
    const seconds = Number(patience);
    if (!(seconds >= 0 && Number.isFinite(seconds)))
      throw new RangeError("The patience of a connection is a number of seconds, 0 or more.");
    await this.#standing(signal);
    const { port1, port2: port } = new MessageChannel();
    const { pipe, opened, fail } = this.#pipe(port1, signal);
    const args = { address: String(address), isolation: String(isolation), patience: seconds, port };
    this.#command("connect", args, [port]).catch(fail);
    await opened;
    return pipe;
  }

  async serve(address, handler, { signal } = {}) {
    if (typeof handler !== "function") throw new TypeError("A service needs a function that is called with each pipe.");
    const secret = address?.secret;
    if (secret !== undefined && !(secret instanceof ArrayBuffer || ArrayBuffer.isView(secret)))
      throw new TypeError("A secret is bytes: an ArrayBuffer or a view of one.");
    await this.#standing(signal);
    const { port1, port2: port } = new MessageChannel();
    const stands = Promise.withResolvers();
    port1.onmessage = ({ data: { type, value } }) => {
      if (type === "pipe") this.#answer(handler, value);
      else if (value) stands.resolve();
    };
    const args = { address: String(address), secret, port };
    const served = await this.#command("serve", args, [port]);
    const close = () => port1.postMessage({ type: "stop" });
    signal?.addEventListener("abort", close);
    if (signal?.aborted) close();
    await unless(signal, Promise.race([stands.promise, this.closed.then(() => Promise.reject(this.#over))]));
    return { address: served.address, close };
  }

  /** Leave the network: pipes fail with the code "closed". */
  async close() {
    if (this.#over) return;
    const stopped = this.#command("stop").catch(() => {});
    const late = new Promise((resolve) => setTimeout(resolve, STOP_WITHIN));
    for (const fail of [...this.#pipes]) fail(closed()); // before it hears of what ends in the worker
    await Promise.race([stopped, late]);
    this.#end(null);
  }

  async #answer(handler, port) {
    const { pipe, giveUp } = this.#pipe(port);
    try {
      await handler(pipe);
    } catch (error) {
      if (error instanceof ConvergenceError) return; // it is how the pipe ended
      giveUp(new ConvergenceError("handler", "The service's own program failed.", EndReason.INTERNAL));
      reportError(error);
    }
  }

  #pipe(port, signal) {
    const made = createPipe(port, { signal, onOver: (fail) => this.#pipes.delete(fail) });
    this.#pipes.add(made.fail);
    return made;
  }

  async #standing(signal) {
    const late = Promise.withResolvers();
    const timer = setTimeout(
      () =>
        late.reject(new ConvergenceError("not-ready", this.#trouble?.message ?? "The network was not found in time.")),
      READY_WITHIN,
    );
    await unless(signal, Promise.race([this.ready, late.promise])).finally(() => clearTimeout(timer));
    if (this.#over) throw this.#over;
  }

  #command(name, args = {}, transfer = []) {
    if (this.#over) return Promise.reject(this.#over);
    const id = ++this.#numbers;
    const answer = Promise.withResolvers();
    this.#answers.set(id, answer);
    this.#worker.postMessage({ type: "command", id, name, args }, transfer);
    return answer.promise;
  }

  #settle({ id, ok, value, why, message }) {
    const answer = this.#answers.get(id);
    this.#answers.delete(id);
    if (ok) answer?.resolve(value);
    else answer?.reject(why ? errorOf(why) : new ConvergenceError("defect", message));
  }

  #show({ failed, identity, ready, nodes, trouble }) {
    if (failed) this.#end(new ConvergenceError("start", failed));
    if (this.#over || !identity) return; // it is still starting
    this.#started.resolve();
    if (ready && !this.#stands) {
      this.#stands = true;
      this.#ready.resolve();
      this.dispatchEvent(new Event("ready"));
    }
    if (nodes !== this.nodes) {
      this.nodes = nodes;
      this.dispatchEvent(new Event("nodes"));
    }
    const error = trouble && errorOf(trouble);
    if (error && error.message !== this.#trouble?.message)
      this.dispatchEvent(new CustomEvent("trouble", { detail: error }));
    this.#trouble = error;
  }

  /** @param {Error|null} error null when it was closed */
  #end(error) {
    if (this.#over) return;
    this.#over = error ?? closed();
    this.#worker.terminate();
    this.#bridge?.stop();
    this.#unwatch();
    if (error) this.#closed.reject(error);
    else this.#closed.resolve();
    for (const { reject } of [this.#started, this.#ready, ...this.#answers.values()]) reject(this.#over);
    for (const fail of [...this.#pipes]) fail(this.#over);
  }
}
