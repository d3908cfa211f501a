/**
 * Does: the card "This code": the root hash that runs as words and picture, where it came from, how to compare it; what
 * else the site offers, what speaks for that, and the choice.
 * Does not: verify or keep anything; see code/pin.js and the service worker.
 */

import { byId, el, setText } from "./dom.js";
import { picture, words } from "./fingerprint.js";
import { count, sentence } from "./words.js";

const FIRST_WORDS = 4;
const FROM = {
  cache:
    "Every file was checked before it ran, and this browser keeps it: the page also starts offline, and runs these " +
    "bytes until you accept others.",
  writing: "Every file was checked against the list that this site gave, and is now being kept.",
  first:
    "Every file was checked against the list that this site gave. From your next visit on, this browser runs these " +
    "bytes, whatever the site serves, until you accept others.",
  fleeting:
    "Every file was checked against the list that this site gave. But this browser did not keep it, because it had " +
    "no room, did not allow it, or ended it too early: nothing is pinned, and the next visit may bring other code. " +
    "If space on this device is short, free some; then reload the page.",
  site: "Straight from the site: nothing is pinned, and the next visit may bring other code.",
  bookmarklet: "Started by your bookmark, which checked every file before it ran.",
};
const UNPINNED = ["writing", "fleeting"];

/**
 * @param {object} actions
 * @param {(root: string, progress: (done: number, total: number) => void) => Promise<void>} actions.accept
 * @param {(root: string) => Promise<void>} actions.decline
 * @param {(on: boolean) => Promise<void>} actions.setAutomatic
 * @param {() => Promise<object>} actions.look Asks the site for another version.
 */
export function codeCard({ accept, decline, setAutomatic, look }) {
  const card = byId("code");
  const automatic = byId("code-automatic");
  let running = null;

  automatic.addEventListener("change", () =>
    setAutomatic(automatic.checked).catch((error) => {
      automatic.checked = !automatic.checked;
      fail(error);
    }),
  );
  byId("code-look").addEventListener("click", () => check(true));

  /** @param {import("../code/pin.js").Running} what */
  function show(what) {
    running = what;
    card.dataset.from = what.from;
    card.dataset.root = what.root;
    const phase = what.status?.phase ?? "";
    const from = UNPINNED.includes(phase) ? phase : what.from;
    card.dataset.phase = phase;
    setText(byId("code-from"), [FROM[from], sentence(what.why), trouble(what.status)].filter(Boolean).join(" "));
    card.classList.toggle("unpinned", from === "site" || from === "fleeting");
    byId("code-choices").hidden = phase !== "pinned";
    byId("code-automatic-row").hidden = !what.status?.threshold;
    automatic.checked = Boolean(what.status?.automatic);
    if (what.status?.threshold)
      setText(byId("code-keys"), `${what.status.threshold} of ${count(what.status.keys, "key")}`);
    if (!what.root) return setText(byId("code-short"), "The site has no list of its files.");
    const list = words(what.root);
    byId("code-picture").replaceChildren(picture(what.root));
    setText(byId("code-short"), `${list.slice(0, FIRST_WORDS).join(" ")} …`);
    byId("code-words").replaceChildren(...list.map((word) => el("li", {}, word)));
    setText(byId("code-version"), what.version);
    setText(byId("code-root"), what.root);
    setText(byId("code-command"), `convergence verify ${location.origin}${location.pathname}`);
  }

  /** What the service worker tells all pages. */
  function told(message) {
    if (message.type === "status" && running?.status) show({ ...running, status: message.status });
  }

  async function check(asked = false) {
    if (asked) setText(byId("code-looked"), "Looking …");
    try {
      const found = await look();
      const here = {
        current: "The site has this very version.",
        unreachable: `The site did not say what it has now: ${found.message}. What you have goes on.`,
        unpinned: "",
        offered: "",
        older: "",
        broken: "",
      }[found.kind];
      setText(byId("code-looked"), asked ? here : "");
      if (found.kind === "unpinned") show({ ...running, status: { ...running.status, phase: "fleeting" } });
      offer(found);
    } catch (error) {
      fail(error);
    }
  }

  function offer(found) {
    const box = byId("offer");
    box.hidden = ["current", "unreachable", "unpinned"].includes(found.kind);
    box.dataset.kind = found.kind;
    if (box.hidden) return;
    if (found.kind === "broken") {
      box.replaceChildren(
        el("h3", {}, "The site offers something that is refused"),
        el("p", {}, `${sentence(found.message)} What you have goes on.`),
      );
      return;
    }
    const title =
      found.kind === "older"
        ? `Refused: the site offers the older version ${found.version}`
        : `The site offers another version: ${found.version}`;
    const note = el("p", { class: "item-note", role: "status", "data-testid": "offer-note" });
    const use = el(
      "button",
      {
        type: "button",
        class: "primary small",
        "data-testid": "offer-use",
        click: () => take(found, note, [use, keep]),
      },
      "Use this version",
    );
    const keep = el(
      "button",
      { type: "button", class: "small", "data-testid": "offer-keep", click: () => refuse(found) },
      "Keep mine",
    );
    box.replaceChildren(
      el("h3", {}, title),
      el(
        "div",
        { class: "fingerprint" },
        picture(found.root),
        el("p", { class: "hash-line", "data-testid": "offer-words" }, words(found.root).join(" ")),
      ),
      el("p", { "data-testid": "offer-standing" }, standing(found, running.status.keys)),
      ...(found.kind === "older"
        ? [
            el(
              "p",
              {},
              "Old versions can have faults that were found since, and somebody may want you to run one of them. " +
                "What you have goes on.",
            ),
          ]
        : [
            found.declined ? el("p", { class: "muted" }, "You kept yours.") : "",
            note,
            el("div", { class: "actions" }, use, found.declined ? "" : keep),
          ]),
    );
    if (found.automatic) take(found, note, [use, keep]);
  }

  async function take(found, note, buttons) {
    for (const button of buttons) button.disabled = true;
    setText(note, "Fetching and checking every file …");
    try {
      await accept(found.root, (done, total) => setText(note, `Checked ${Math.round((100 * done) / total)} % …`));
      setText(note, "Everything was checked. The page starts again with it.");
    } catch (error) {
      note.classList.add("bad");
      setText(note, `Nothing was changed. ${sentence(error.message)}`);
      for (const button of buttons) button.disabled = false;
    }
  }

  const refuse = (found) => decline(found.root).then(() => offer({ ...found, declined: true }), fail);

  function fail(error) {
    setText(byId("code-looked"), sentence(error.message));
  }
  return { show, told, check };
}

/** What speaks for a version, or what is missing. */
function standing({ signed, signers, needed, index, why }, keys) {
  const parts = [];
  if (needed && signers >= needed) parts.push(`signed by ${signers} of ${count(keys, "key")} (${needed} needed)`);
  if (index !== null) parts.push(`in the release log at line ${index + 1}`);
  if (signed) return sentence([...parts, "and the log is consistent"].join(", "));
  return [
    parts.length ? `It is ${parts.join(", ")}.` : "",
    `What is missing: ${why.join("; ")}.`,
    "Use it only if you know from elsewhere that these are the right words.",
  ]
    .filter(Boolean)
    .join(" ");
}

function trouble(status) {
  return status?.mended.length
    ? `Changed or lost in this browser's cache, fetched again and checked: ${status.mended.join(", ")}.`
    : "";
}
