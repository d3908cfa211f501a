// A page with the bridge of web/bridge/ and a worker that uses it. Descriptions of connections go to the other page
// through the test's server: `POST /mail/NAME`, and `GET /mail/NAME/NUMBER`, which waits for that letter.
import { createBridge } from "../../../web/bridge/rtc.js";

const policy = window.trustedTypes?.createPolicy("convergence", { createScriptURL: (address) => address });
const events = [];
const watchers = new Set();
let name, other, worker;

/** @param {{name: string, other: string, stun?: string[], rtc?: boolean}} options */
function start(options) {
  ({ name, other } = options);
  worker = new Worker(policy ? policy.createScriptURL("/worker.js") : "/worker.js", { type: "module" });
  const bridge = options.rtc === false ? null : createBridge();
  worker.postMessage({ type: "bridge", port: bridge?.port, stun: options.stun ?? [] }, bridge ? [bridge.port] : []);
  worker.onmessage = ({ data }) => {
    events.push(data);
    if (data.event === "described") post(data);
    for (const look of watchers) look();
  };
  read();
}

function post({ channel, kind, sdp }) {
  fetch(`/mail/${other}`, { method: "POST", body: JSON.stringify({ channel, kind, sdp }) });
}

async function read() {
  for (let number = 0; ; number++) {
    // Browsers break requests off when the network changes; letters stay where they are.
    const answer = await fetch(`/mail/${name}/${number}`).catch(() => fetch(`/mail/${name}/${number}`));
    const { channel, kind, sdp } = await answer.json();
    worker.postMessage({ call: "describe", args: [channel, kind, sdp] });
  }
}

/** The latest event of that kind on that channel for which `holds` is true, once there is one. */
function until(kind, channel, holds = () => true) {
  return new Promise((resolve) => {
    const look = () => {
      const event = events.findLast((each) => each.event === kind && each.channel === channel && holds(each));
      if (!event) return;
      watchers.delete(look);
      resolve(event);
    };
    watchers.add(look);
    look();
  });
}

const asleep = new Int32Array(new SharedArrayBuffer(4));

window.peer = {
  start,
  until,
  events,
  call: (call, ...args) => worker.postMessage({ call, args }),
  send: (channel, send) => worker.postMessage({ channel, send }),
  sleep: () => worker.postMessage({ sleep: asleep }),
  wake: () => Atomics.store(asleep, 0, 1) + Atomics.notify(asleep, 0),
};
