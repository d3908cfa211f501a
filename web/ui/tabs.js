/**
 * One node per browser profile.
 *
 * Does: elect a leader among the tabs (Web Locks); the leader starts the worker, the others send it their commands and
 * receive its states over a BroadcastChannel. When the leader's tab closes, the browser hands the lock to another tab,
 * which starts a node and is sent, once more, whatever the other tabs still wait for.
 * Does not: know what commands or states mean.
 *
 * Messages between tabs: `hello` (who leads?), `leader` (I do; with the latest state), `command`, `reply`, `state`.
 */

const LOCK = "convergence-node";
const CHANNEL = "convergence-tabs";

/**
 * @param {object} options
 * @param {boolean} [options.alone] Say nothing to other tabs and hear nothing; fail when one of them runs a node.
 * @param {Promise<void>} [options.until] Before it resolves, this tab does not lead.
 * @param {() => Worker} options.startWorker Called once, if and when this tab leads.
 * @param {(state: object) => void} options.onState Each new state of the node.
 * @param {(role: "leader"|"guest") => void} options.onRole
 * @returns {{command: (name: string, args?: object) => Promise<any>}} `command` rejects with an Error for people to read.
 */
export function joinNode({ alone = false, until = Promise.resolve(), startWorker, onState, onRole }) {
  const channel = alone ? { postMessage() {} } : new BroadcastChannel(CHANNEL);
  const tab = crypto.randomUUID();
  /** @type {Map<string, {message: object, resolve: Function, reject: Function}>} */
  const pending = new Map();
  let numbers = 0;
  let leader = null; // the leading tab's name, once known
  let worker = null; // only in the leader
  let state = null;

  const dispatch = (message) => {
    if (worker) worker.postMessage(message);
    else if (leader) channel.postMessage(message);
  };
  const dispatchAll = () => pending.forEach(({ message }) => dispatch(message));

  const settle = ({ id, ok, value, message }) => {
    const waiting = pending.get(id);
    if (!waiting) return false;
    pending.delete(id);
    if (ok) waiting.resolve(value);
    else waiting.reject(new Error(message));
    return true;
  };

  const show = (next) => {
    state = next;
    onState(next);
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

  const lead = () => {
    leader = tab;
    onRole("leader");
    worker = startWorker();
    worker.onmessage = ({ data }) => {
      if (data.type === "state") {
        show(data.state);
        channel.postMessage(data);
      } else if (!settle(data)) channel.postMessage(data);
    };
    worker.onerror = (event) => {
      event.preventDefault();
      const failed = "The node stopped because part of the program could not be loaded or run. Reload the page to start it again.";
      const stopped = { ...(state ?? {}), ready: false, failed };
      show(stopped);
      channel.postMessage({ type: "state", state: stopped });
    };
    channel.postMessage({ type: "leader", leader: tab, state });
    dispatchAll();
    return new Promise(() => {}); // held until this tab closes
  };

  channel.postMessage({ type: "hello" });
  const busy = "Another tab of this site runs a node already. Close it, then start this page again.";
  until.then(() => navigator.locks.request(LOCK, { ifAvailable: alone }, (lock) => (lock ? lead() : show({ ready: false, failed: busy }))));

  return {
    command(name, args = {}) {
      const id = `${tab}:${(numbers += 1)}`;
      const message = { type: "command", id, name, args };
      return new Promise((resolve, reject) => {
        pending.set(id, { message, resolve, reject });
        dispatch(message);
      });
    },
  };
}
