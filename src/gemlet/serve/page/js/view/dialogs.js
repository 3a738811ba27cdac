/** Questions that stop everything else, and notes that stop nothing. */
import { byId, el } from "./dom.js";

/**
 * @param {HTMLDialogElement} dialog
 * @returns {Promise<boolean>} whether its form was submitted
 */
function ask(dialog) {
  return new Promise((resolve) => {
    const form = /** @type {HTMLFormElement} */ (dialog.querySelector("form"));
    let agreed = false;
    form.onsubmit = (event) => {
      event.preventDefault();
      agreed = true;
      dialog.close();
    };
    dialog.querySelector("[data-cancel]")?.addEventListener("click", () => dialog.close(), { once: true });
    dialog.addEventListener("close", () => resolve(agreed), { once: true });
    dialog.showModal();
  });
}

/**
 * @param {boolean} refused  whether the last key was not accepted
 * @returns {Promise<string | null>}
 */
export async function askKey(refused) {
  /** @type {HTMLInputElement} */
  const input = byId("key");
  input.value = "";
  byId("key-refused").hidden = !refused;
  const given = await ask(byId("key-dialog"));
  return given ? input.value.trim() : null;
}

/** @param {string} question @param {string} action  what the button says */
export function confirm(question, action) {
  byId("confirm-text").textContent = question;
  byId("confirm-action").textContent = action;
  return ask(byId("confirm-dialog"));
}

let hiding = 0;

/**
 * A short note at the edge of the page.
 * @param {string} text
 * @param {{label: string, action: () => void}} [offer]
 */
export function toast(text, offer) {
  const place = byId("toast");
  const hide = () => place.replaceChildren();
  clearTimeout(hiding);
  const button =
    offer && el("button", { type: "button", class: "ghost", onclick: () => (hide(), offer.action()) }, offer.label);
  place.replaceChildren(el("div", { class: "toast" }, el("span", {}, text), button ?? null));
  hiding = setTimeout(hide, offer ? 10_000 : 5_000);
}
