/** The keys. Those without a modifier work outside text fields only, and can be switched off. */
import { byId, el } from "./view/dom.js";
import { keep, recall } from "./keep.js";

/** @typedef {{keys: string[], label: string, action?: () => void}} Shortcut */

/**
 * @param {Shortcut[]} single  keys without a modifier
 * @param {{search: () => void, escape: (event: KeyboardEvent) => void, editLast: () => void}} actions
 */
export function listen(single, actions) {
  const byKey = new Map(single.flatMap(({ keys, action }) => keys.map((key) => [key, action])));
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.defaultPrevented) return;
    if ((event.ctrlKey || event.metaKey) && !event.altKey && event.key.toLowerCase() === "k") {
      event.preventDefault();
      actions.search();
      return;
    }
    if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") return actions.escape(event);
    const field = /** @type {Element} */ (event.target).closest?.("input, textarea, select");
    if (event.key === "ArrowUp" && field?.id === "prompt" && !(/** @type {any} */ (field).value)) {
      event.preventDefault();
      actions.editLast();
      return;
    }
    if (field || !recall("singleKeys", true)) return;
    const action = byKey.get(event.key);
    if (!action) return;
    event.preventDefault();
    action();
  });
}

/** Fills the help. @param {Shortcut[]} always @param {Shortcut[]} single */
export function fillHelp(always, single) {
  const rows = (list) =>
    list.map(({ keys, label }) =>
      el("div", {}, el("dt", {}, ...keys.flatMap((key, index) => [index ? " " : "", el("kbd", {}, key)])), el("dd", {}, label)),
    );
  byId("keys-always").append(...rows(always));
  byId("keys-single").append(...rows(single));
  /** @type {HTMLInputElement} */
  const box = byId("single-keys");
  box.checked = recall("singleKeys", true);
  box.addEventListener("change", () => keep("singleKeys", box.checked));
}
