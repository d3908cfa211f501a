/**
 * One node per browser profile.
 *
 * Does: elect a leader among the tabs (Web Locks); the leader starts the worker, the others send it their commands and
 * receive its states over a BroadcastChannel. When the leader's tab closes or its node fails, the lock goes to another
 * tab. That one starts a node, and the other tabs send it the commands that were not answered yet.
 * Does not: know what commands or states mean.
 *
 * Messages between tabs: `hello` asks for the leader, `leader` answers with the latest state; `command`, `reply`,
 * `state`.
 */

import { words } from "./messages.js";

const LOCK = "convergence-node";
const CHANNEL = "convergence-tabs";

const ANSWER_WITHIN = 10_000; // ms; tabs that run in the background answer as well
const BUSY = "Another tab of this site runs a node already. Close it, then reload this page.";
const MUTE =
  "Another tab of this site runs a node and does not answer: a node that was started by a bookmark works for no " +
  "other tab. Close that tab, and this page goes on by itself.";

/**
 * @param {object} options
 * @param {boolean} [options.alone] Say nothing to other tabs and hear nothing; fail when one of them runs a node.
 * @param {Promise<void>} [options.until] Before it resolves, this tab does not lead.
 * @param {() => Worker} options.startWorker Called once, if and when this tab leads.
 * @param {(worker: Worker) => void} options.stopWorker
 * @param {(state: object) => void} options.onState Each new state of the node.
 * @param {(role: "leader"|"guest") => void} options.onRole
 * @returns {{command: (name: string, args?: object) => Promise<any>, leave: (why: string) => void}} `command` rejects
 *   with an Error for people to read; after `leave` this tab no longer runs a node, and another one may.
 */
export function joinNode({ alone = false, until = Promise.resolve(), startWorker, stopWorker, onState, onRole }) {
  const channel = alone ? { postMessage() {} } : new BroadcastChannel(CHANNEL);
  const tab = crypto.randomUUID();
  /** @type {Map<string, {message: object, resolve: Function, reject: Function}>} */
  const pending = new Map();
  let numbers = 0;
  let leader = null; // the leading tab's name, once known
  let worker = null; // while this tab leads
  let state = null;
  let left = ""; // why this tab has left
  let unlock = () => {};

  const dispatch = (message) => {
    if (worker) worker.postMessage(message);
    else if (leader) channel.postMessage(message);
  };
  const dispatchAll = () => {
    for (const { message } of pending.values()) dispatch(message);
  };

  const settle = ({ id, ok, value, message, why }) => {
    const waiting = pending.get(id);
    if (!waiting) return false;
    pending.delete(id);
    if (ok) waiting.resolve(value);
    else waiting.reject(new Error(why ? words(why) : message));
    return true;
  };

  const show = (next) => {
    state = next;
    onState(next);
  };

  const leave = (why) => {
    left = why;
    show({ ...(state ?? {}), ready: false, failed: why });
    if (worker) {
      channel.postMessage({ type: "state", state });
      stopWorker(worker);
    }
    worker = leader = null;
    for (const id of [...pending.keys()]) settle({ id, ok: false, message: why });
    unlock();
  };

  channel.onmessage = ({ data }) => {
    if (data.type === "state" && !worker) show(data.state);
    else if (data.type === "reply") settle(data);
    else if (data.type === "command" && worker) worker.postMessage(data);
    else if (data.type === "hello" && worker) channel.postMessage({ type: "leader", leader: tab, state });
    else if (data.type === "leader" && !worker && data.leader !== leader) {
      leader = data.leader;
      onRole("guest");
      if (data.state) show(data.state);
      dispatchAll();
    }
  };

  /** @returns {Promise<void>} The lock is held until this tab leaves, or is closed. */
  const lead = () => {
    if (left) return;
    leader = tab;
    onRole("leader");
    try {
      worker = startWorker();
    } catch (error) {
      leave(`This browser did not start the node: ${error.message}. Reload the page to try again.`);
      return;
    }
    worker.onmessage = ({ data }) => {
      if (data.type === "state" && data.state.failed) leave(data.state.failed);
      else if (data.type === "state") {
        show(data.state);
        channel.postMessage(data);
      } else if (!settle(data)) channel.postMessage(data);
    };
    worker.onerror = (event) => {
      event.preventDefault();
      leave(
        "The node stopped because part of the program could not be loaded or run. Reload the page to start it again.",
      );
    };
    channel.postMessage({ type: "leader", leader: tab, state });
    dispatchAll();
    return new Promise((resolve) => {
      unlock = resolve;
    });
  };

  channel.postMessage({ type: "hello" });
  until.then(() => {
    if (!alone) setTimeout(() => leader || left || show({ ready: false, failed: MUTE }), ANSWER_WITHIN);
    return navigator.locks.request(LOCK, { ifAvailable: alone }, (lock) => (lock ? lead() : leave(BUSY)));
  });

  return {
    leave,
    command(name, args = {}) {
      numbers += 1;
      const id = `${tab}:${numbers}`;
      const message = { type: "command", id, name, args };
      return new Promise((resolve, reject) => {
        pending.set(id, { message, resolve, reject });
        if (left && !leader) settle({ id, ok: false, message: left });
        else dispatch(message);
      });
    },
  };
}
