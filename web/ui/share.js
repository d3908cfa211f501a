/**
 * Does: the Share card: pick or drop files, show them being read, then the link with a copy button and a QR code.
 * Does not: read a file; the worker does.
 *
 * A share: `{id, name, size, stage: "reading"|"announcing"|"ready"|"failed", have, points, link, why, code}`.
 * `link` is the fragment `<hash_name>.<key>`: the page puts its own address in front. `code` is null, or
 * `{text, why, more}`: what to read to somebody, what became of the code before, whether another one may follow.
 */

import { byId, el, keepList, setText } from "./dom.js";
import { words } from "./messages.js";
import { qrCode } from "./qr.js";
import { bytes, count, sentence, shownName } from "./words.js";

const COPIED_MS = 2500;

/** @param {(name: string, args?: object) => Promise<any>} command */
export function shareCard(command) {
  const input = byId("share-input");
  const error = byId("share-error");
  const drop = byId("drop");

  const share = (files) => {
    setText(error, "");
    navigator.storage?.persist?.().catch(() => {}); // else a browser short of space may clear shared files
    for (const file of files) {
      command("share", { file }).catch((failure) =>
        setText(error, `${shownName(file.name)}: ${sentence(failure.message)}`),
      );
    }
  };
  input.addEventListener("change", () => {
    share([...input.files]);
    input.value = "";
  });
  // A file dropped beside the field must not replace the page (and end the node): the whole window takes it.
  window.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.toggle("over", [...event.dataTransfer.types].includes("Files"));
  });
  window.addEventListener("dragleave", (event) => event.relatedTarget ?? drop.classList.remove("over"));
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const entries = [...event.dataTransfer.items].filter((item) => item.kind === "file");
    if (entries.some((item) => item.webkitGetAsEntry?.()?.isDirectory)) {
      setText(
        error,
        "Folders cannot be shared as they are. Pack the folder into one file, such as a .zip, and share that.",
      );
      return;
    }
    share([...event.dataTransfer.files]);
  });
  return { update: (shares) => keepList(byId("shares"), shares, (item) => shareView(item, command)) };
}

/** The whole link for the part that the node knows: it leads to the site, not to the empty page for bookmarks. */
const fullLink = (link) => new URL(`./#${link}`, globalThis.convergence?.site ?? location.href).href;

function shareView(first, command) {
  const name = el("bdi", { class: "item-name" }, shownName(first.name));
  const size = el("span", { class: "item-size" }, bytes(first.size));
  const bar = el("progress", {
    max: "1",
    value: "0",
    "aria-label": `Reading ${shownName(first.name)}`,
    "data-testid": "share-progress",
  });
  const note = el("p", { class: "item-note", role: "status", "data-testid": "share-note" });
  const field = el("input", {
    type: "text",
    readonly: true,
    "data-testid": "share-link",
    "aria-label": "Share link",
    focus: () => field.select(),
  });
  const copy = el(
    "button",
    { type: "button", class: "primary", "data-testid": "share-copy", click: () => copyLink(field, copy) },
    "Copy link",
  );
  const code = el("div", { class: "code", hidden: true });
  const show = el(
    "button",
    { type: "button", class: "small", "aria-expanded": "false", "data-testid": "share-qr", click: () => toggle() },
    "Show QR code",
  );
  const stop = el(
    "button",
    {
      type: "button",
      class: "small quiet",
      "data-testid": "share-stop",
      click: () => command("unshare", { id: first.id }).catch((failure) => setText(note, sentence(failure.message))),
    },
    "Stop sharing",
  );
  const link = el("div", { class: "item-link" }, field, copy);
  const spoken = el("p", { class: "spoken", "data-testid": "share-code" });
  const told = el("p", { class: "item-note", role: "status", "data-testid": "share-code-note" });
  const speak = el(
    "button",
    {
      type: "button",
      class: "small",
      "data-testid": "share-speak",
      click: () => command("code", { id: first.id }).catch((failure) => setText(told, sentence(failure.message))),
    },
    "Read out a code",
  );
  const actions = el("div", { class: "actions" }, show, speak, stop);
  const root = el(
    "li",
    { class: "item", "data-testid": "share-item" },
    el("div", { class: "item-head" }, name, size),
    bar,
    link,
    code,
    spoken,
    told,
    el("div", { class: "item-foot" }, note, actions),
  );

  const toggle = () => {
    code.hidden = !code.hidden;
    show.setAttribute("aria-expanded", String(!code.hidden));
    setText(show, code.hidden ? "Show QR code" : "Hide QR code");
    if (!code.firstChild) {
      code.append(
        qrCode(field.value, "QR code of the share link"),
        el("p", { class: "muted" }, "Point a phone's camera at it. Whoever sees this code can get the file."),
      );
    }
  };
  return {
    root,
    update(item) {
      const linked = Boolean(item.link) && item.stage !== "failed";
      root.dataset.stage = item.stage;
      bar.hidden = item.stage !== "reading";
      bar.value = item.size ? item.have / item.size : 1;
      link.hidden = show.hidden = !linked;
      const offered = item.code;
      speak.hidden = !linked || Boolean(offered?.more);
      setText(spoken, offered?.text ?? "");
      spoken.hidden = !spoken.textContent;
      if (offered) setText(told, codeNote(offered));
      if (linked && field.value !== fullLink(item.link)) field.value = fullLink(item.link);
      note.classList.toggle("bad", item.stage === "failed");
      note.classList.toggle("good", item.stage === "ready");
      setText(note, shareNote(item));
      setText(stop, item.stage === "failed" ? "Remove" : item.stage === "reading" ? "Cancel" : "Stop sharing");
    },
  };
}

function shareNote(item) {
  if (item.stage === "reading") return `Preparing: ${bytes(item.have)} of ${bytes(item.size)}`;
  if (item.stage === "announcing") return "Telling the meeting points. You can send the link already.";
  if (item.stage === "failed") return words(item.why);
  return `Ready at ${count(item.points, "meeting point")}. Keep this tab open until your friend has the file.`;
}

function codeNote({ text, why, more }) {
  const before = words(why);
  if (text) return `${before} Read it to one person, who can type it here in place of the link within the hour.`.trim();
  return more ? `${before} Looking for a number that nobody uses.`.trim() : before;
}

async function copyLink(field, button) {
  try {
    await navigator.clipboard.writeText(field.value);
    setText(button, "Copied");
  } catch {
    field.focus();
    field.select();
    setText(button, "Press Ctrl+C");
  }
  setTimeout(() => setText(button, "Copy link"), COPIED_MS);
}
