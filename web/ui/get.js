/**
 * Does: the Get card: take a link or a word code from the field, or a link from the address bar, show each transfer, offer Save once it is
 * complete.
 * Does not: speak the protocol, render what arrives, or trust a received name.
 *
 * A transfer: `{id, name, size, files, have, pieces, sources, why,
 * state: "looking"|"waiting"|"running"|"paused"|"done"|"failed"|"stopped"}`, sizes in bytes; `size` is null until a
 * provider has proved what the file is. `files` is null, but for a folder: how many are in it.
 *
 * The link stays in the address bar until its file is complete or given up: reloading, the first thing people try when
 * something seems stuck, then goes on with the same file even if the browser's storage was refused. After that it is
 * taken away, so that it is neither bookmarked nor seen over a shoulder for longer than it is of use.
 */

import { byId, el, keepList, setText } from "./dom.js";
import { isCode, linksIn } from "./find.js";
import { words } from "./messages.js";
import { saveBlob } from "./save.js";
import { bytes, count, sentence, shownName, span } from "./words.js";

const ACTIVE = new Set(["looking", "waiting", "running"]);
const SPEED_WINDOW_MS = 5000;
const ESCAPED_SHARP = /%(?:25)*23/;
const BAD_LINK =
  "This is not a complete share link. Copy all of it and try again: after the # come two groups of 43 letters, " +
  "digits, - or _, with a dot between.";
const NO_LINK = "Paste the link that you were given into the field first, or type the code.";

/** @param {(name: string, args?: object) => Promise<any>} command */
export function getCard(command) {
  const input = byId("get-input");
  const error = byId("get-error");
  const note = byId("get-code");
  let opened = null; // the transfer that the address bar's link stands for
  let seen = false; // whether the node has listed it

  const fail = (message) => {
    setText(error, message);
    input.setAttribute("aria-invalid", "true");
  };
  const get = async (text) => {
    setText(error, "");
    input.removeAttribute("aria-invalid");
    const [link, another] = linksIn(text);
    const code = isCode(text);
    if (!code && (!link || another)) {
      fail(another ? words({ code: "link-several" }) : text.trim() ? BAD_LINK : NO_LINK);
      return null;
    }
    setText(note, code ? "Looking for whoever offers this code." : "");
    try {
      return (await command("get", code ? { code: text } : { link })).id;
    } catch (failure) {
      fail(sentence(failure.message));
      return null;
    } finally {
      setText(note, "");
    }
  };
  const forget = () => {
    opened = null;
    history.replaceState(null, "", location.pathname + location.search);
  };
  const openFragment = async () => {
    mendAddress();
    if (location.hash.length < 2) return;
    setText(byId("headline"), "Someone has a file for you.");
    byId("share").before(byId("get")); // a link was opened to get a file: this card and its focus come first
    seen = false;
    opened = await get(location.hash);
    if (opened === null) input.value = location.href;
  };

  // A field of one line would glue broken lines and their quoting marks together.
  input.addEventListener("paste", (event) => {
    const [link, another] = linksIn(event.clipboardData.getData("text"));
    if (!link || another) return;
    event.preventDefault();
    input.value = link;
  });
  byId("get-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const id = await get(input.value);
    if (id !== null) input.value = "";
    else input.focus();
  });
  window.addEventListener("hashchange", openFragment);
  openFragment();

  return {
    update(transfers) {
      keepList(byId("transfers"), transfers, (item) => transferView(item, command));
      if (opened === null) return;
      const mine = transfers.find((item) => item.id === opened);
      seen ||= Boolean(mine);
      if (mine ? mine.state === "done" : seen) forget();
    },
  };
}

/** Some programs write "%23" for "#": the site then gives this page under the address of a file that it does not have. */
function mendAddress() {
  const [folder, fragment] = location.pathname.split(ESCAPED_SHARP);
  if (fragment !== undefined) history.replaceState(null, "", `${folder}${location.search}#${fragment}`);
}

function transferView(first, command) {
  const name = el("bdi", { class: "item-name", "data-testid": "name" });
  const size = el("span", { class: "item-size" });
  const bar = el("progress", { max: "1", "data-testid": "progress", "aria-label": "Received so far" });
  const note = el("p", { class: "item-note", "data-testid": "transfer-note" });
  // It speaks at each change of stage, not at each byte.
  const stage = el("p", { class: "visually-hidden", role: "status" });
  const run = (verb) => () =>
    command(verb, { id: first.id }).catch((failure) => setText(note, sentence(failure.message)));
  const save = el(
    "button",
    { type: "button", class: "primary small", "data-testid": "save", click: () => saveTransfer() },
    "Save",
  );
  const retry = el("button", { type: "button", class: "small", "data-testid": "retry", click: run("retry") }, "Retry");
  const cancel = el(
    "button",
    { type: "button", class: "small quiet", "data-testid": "cancel", click: run("cancel") },
    "Stop",
  );
  const forget = el(
    "button",
    { type: "button", class: "small quiet", "data-testid": "forget", click: run("forget") },
    "Remove",
  );
  const root = el(
    "li",
    { class: "item", "data-testid": "transfer", "data-id": first.id },
    el("div", { class: "item-head" }, name, size),
    bar,
    stage,
    el("div", { class: "item-foot" }, note, el("div", { class: "actions" }, save, retry, cancel, forget)),
  );
  const speed = speedometer();
  let savedAs = "";
  let last = first;

  const saveTransfer = async () => {
    save.disabled = true;
    setText(save, "Preparing");
    try {
      const { blob, name: saved } = await command("save", { id: first.id });
      savedAs = saveBlob(blob, saved);
      setText(note, transferNote(last, 0, savedAs));
    } catch (failure) {
      setText(note, sentence(failure.message));
    } finally {
      save.disabled = false;
      setText(save, "Save");
    }
  };
  return {
    root,
    update(item) {
      last = item;
      const active = ACTIVE.has(item.state);
      const known = item.size !== null;
      root.dataset.state = item.state;
      setText(name, known ? shownName(item.name) : "File");
      const files = item.files == null ? "" : `${count(item.files, "file")} · `;
      setText(size, known ? files + bytes(item.size) : "");
      if (item.size) bar.value = item.have / item.size;
      bar.hidden = item.state === "done" || !(item.have || active);
      save.hidden = item.state !== "done";
      retry.hidden = active || item.state === "done";
      cancel.hidden = !active;
      forget.hidden = active;
      note.classList.toggle("bad", item.state === "failed" || item.state === "paused");
      note.classList.toggle("good", item.state === "done");
      setText(note, transferNote(item, speed(item.have), savedAs));
      setText(stage, stageWords(item));
    },
  };
}

function transferNote(item, rate, savedAs) {
  const part = item.size ? `${bytes(item.have)} of ${bytes(item.size)}` : "";
  if (item.state === "done") {
    const checked = item.pieces === 1 ? "Its one piece was" : `All ${count(item.pieces, "piece")} were`;
    return `Complete. ${checked} checked against the link.${savedNote(item, savedAs)}`;
  }
  if (item.state !== "running") {
    return [words(item.why), item.have ? `${part} is here already.` : ""].join(" ").trim();
  }
  const here = item.size ? Math.floor((item.have / item.size) * item.pieces) : 0;
  const parts = [
    part,
    rate > 0 ? `${bytes(rate)}/s` : "",
    item.pieces ? `${here} of ${count(item.pieces, "piece")}` : "",
    item.sources > 1 ? count(item.sources, "source") : "",
    rate > 0 ? `about ${span((item.size - item.have) / rate)} left` : "",
  ];
  return parts.filter(Boolean).join(" · ") || "Connected; asking what the file is.";
}

function savedNote(item, savedAs) {
  if (item.files != null) return " It is a folder, and saved as a ZIP archive: unpack that to see its files.";
  return savedAs && savedAs !== item.name.replace(/^\.+/, "")
    ? ` Saved as \u2068${savedAs}\u2069: its own name could mislead.`
    : "";
}

function stageWords(item) {
  const name = item.size === null ? "the file" : shownName(item.name);
  const stages = {
    looking: item.why?.code === "looking" ? `Looking for ${name}` : words(item.why),
    running: `Receiving ${name}`,
    done: `${name} is complete and can be saved`,
  };
  return stages[item.state] ?? words(item.why);
}

/** @returns {(have: number) => number} bytes per second over the last seconds */
function speedometer() {
  const marks = [];
  return (have) => {
    const now = performance.now();
    marks.push([now, have]);
    while (marks.length > 2 && now - marks[0][0] > SPEED_WINDOW_MS) marks.shift();
    const [since, before] = marks[0];
    return now - since > 400 ? (1000 * (have - before)) / (now - since) : 0;
  };
}
