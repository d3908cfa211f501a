// A stand-in for the node's worker: tests of the page alone tell it what to say, through a BroadcastChannel of its own.
const control = new BroadcastChannel("test-control");
const state = {
  phase: { percent: 5, text: "Loading Python and the program" },
  ready: false,
  seconds: 0,
  failed: "",
  trouble: "",
  circuits: [],
  bytes: { sent: 0, received: 0, relayed: 0 },
  shares: [],
  transfers: [],
  fetches: [],
};
const answers = {}; // command name -> {value} or {message}; without one a command stays open
const said = [];
let start = null; // what the page said first, but for the bridge to WebRTC
const post = () => self.postMessage({ type: "state", state });

self.onmessage = ({ data }) => {
  if (data.type === "start") {
    start = { settings: data.settings, onMetered: data.onMetered };
    return;
  }
  const { file, ...args } = data.args;
  said.push({ name: data.name, args: file ? { ...args, file: file.name } : args });
  const answer = answers[data.name];
  if (answer) self.postMessage({ type: "reply", id: data.id, ok: !answer.message, ...answer });
};
control.onmessage = ({ data }) => {
  if (data.state) Object.assign(state, data.state);
  if (data.answers) Object.assign(answers, data.answers);
  if (data.crash)
    setTimeout(() => {
      throw new Error("crash");
    });
  if (data.state) post();
  if (data.ask) control.postMessage({ said, start });
};
post();
control.postMessage({ started: true });
