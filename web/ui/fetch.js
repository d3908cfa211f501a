/**
 * Does: the Fetch card: ask for an http or https address through an exit, show status and size, offer Save; text as plain text.
 * Does not: render, follow or run anything fetched: it would be asked for outside the circuits and show who asked.
 *
 * A fetch: `{id, url, stage: "asking"|"receiving"|"done"|"failed", status, size, type, why}`.
 */

import { byId, el, keepList, setText } from "./dom.js";
import { words } from "./messages.js";
import { saveBlob } from "./save.js";
import { bytes, sentence, shownName } from "./words.js";

const TEXT_SHOWN = 65_536; // bytes of a text that the page shows; Save gives all of it
const TEXT = /^(text\/|application\/(json|xml|javascript)\b)/i;

/** @param {(name: string, args?: object) => Promise<any>} command */
export function fetchCard(command) {
  const input = byId("fetch-input");
  const error = byId("fetch-error");
  byId("fetch-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const url = input.value.trim();
    setText(error, url ? "" : "Type an address first, such as https://example.org/.");
    if (!url) return input.focus();
    try {
      await command("fetch", { url });
      input.value = "";
    } catch (failure) {
      setText(error, sentence(failure.message));
      input.focus();
    }
  });
  return { update: (fetches) => keepList(byId("fetches"), fetches, (item) => fetchView(item, command)) };
}

function fetchView(first, command) {
  const note = el("p", { class: "item-note", role: "status", "data-testid": "fetch-note" });
  const text = el("pre", {
    class: "text",
    hidden: true,
    tabindex: "0",
    "aria-label": "Fetched text",
    "data-testid": "fetch-text",
  });
  const fail = (failure) => setText(note, sentence(failure.message));
  const save = el(
    "button",
    {
      type: "button",
      class: "primary small",
      "data-testid": "fetch-save",
      click: () =>
        body()
          .then(({ blob, name }) => saveBlob(blob, name))
          .catch(fail),
    },
    "Save",
  );
  const read = el(
    "button",
    {
      type: "button",
      class: "small",
      "aria-expanded": "false",
      "data-testid": "fetch-read",
      click: () => toggle().catch(fail),
    },
    "Show as text",
  );
  const remove = el(
    "button",
    { type: "button", class: "small quiet", click: () => command("drop-fetch", { id: first.id }).catch(fail) },
    "Remove",
  );
  const root = el(
    "li",
    { class: "item", "data-testid": "fetched" },
    el("div", { class: "item-head" }, el("bdi", { class: "item-name" }, shownName(first.url))),
    el("div", { class: "item-foot" }, note, el("div", { class: "actions" }, save, read, remove)),
    text,
  );

  const body = () => command("body", { id: first.id });
  const toggle = async () => {
    if (text.hidden && !text.firstChild) {
      const { blob } = await body();
      const cut = blob.size > TEXT_SHOWN ? `\n… (${bytes(blob.size)} in all; Save gives the rest)` : "";
      text.textContent = (await blob.slice(0, TEXT_SHOWN).text()) + cut;
    }
    text.hidden = !text.hidden;
    read.setAttribute("aria-expanded", String(!text.hidden));
    setText(read, text.hidden ? "Show as text" : "Hide the text");
  };
  return {
    root,
    update(item) {
      root.dataset.stage = item.stage;
      note.classList.toggle("bad", item.stage === "failed");
      setText(note, fetchNote(item));
      save.hidden = item.stage !== "done";
      read.hidden = item.stage !== "done" || !TEXT.test(item.type);
    },
  };
}

function fetchNote(item) {
  if (item.stage === "asking") return item.why ? `${words(item.why)}…` : "Asking through an exit node…";
  if (item.stage === "failed") return words(item.why);
  const answer =
    item.status >= 400
      ? `The site answered ${item.status}: it does not have this or does not give it.`
      : `Answer ${item.status}`;
  const sofar = item.stage === "receiving" ? " so far" : "";
  return `${answer} · ${bytes(item.size)}${sofar} · ${shownName(item.type || "unknown type")}`;
}
