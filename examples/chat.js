import { join } from "convergence";

const room = `hash:chat ${decodeURIComponent(location.hash) || "lobby"}`;
const [state, lines, form] = ["state", "lines", "form"].map((id) => document.getElementById(id));
const { who, text } = form.elements;
const others = new Set(); // writers: to all who are in the room if we keep it, else to who does
function pass(line, from) {
  lines.append(Object.assign(document.createElement("li"), { textContent: line, className: from ? "" : "own" }));
  if (lines.children.length > 500) lines.firstChild.remove();
  lines.lastChild.scrollIntoView();
  const bytes = new TextEncoder().encode(`${line}\n`);
  for (const other of others) if (other !== from && other.desiredSize > -50) other.write(bytes).catch(() => {});
}
async function talk({ readable, writable, closed }) {
  const writer = writable.getWriter();
  others.add(writer);
  closed.catch(() => {}).then(() => others.delete(writer));
  let rest = "";
  for await (const part of readable.pipeThrough(new TextDecoderStream())) {
    const came = (rest + part).split("\n");
    rest = came.pop().slice(0, 1000);
    for (const line of came) pass(line, writer);
  }
  await writer.close();
}
form.addEventListener("submit", (event) => {
  event.preventDefault();
  pass(`${who.value}: ${text.value}`);
  text.value = "";
});
const node = await join({ root: undefined }); // the root hash of the version that you trust
for (let kept = null; !kept; await new Promise((go) => setTimeout(go, 3000 * Math.random()))) {
  try {
    const pipe = await node.connect(room, { patience: 0 });
    state.textContent = "You are in the room.";
    await talk(pipe);
  } catch (error) {
    state.textContent = error.message;
    if (error.code === "connect-nobody") kept = await node.serve(room, talk).catch(() => null);
  }
}
state.textContent = "You are in the room, and keep it for the others.";
