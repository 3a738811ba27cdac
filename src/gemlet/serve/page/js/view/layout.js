/** The two side panels and the colours: beside the chat where there is room, drawers over it where there is not. */
import { keep, recall } from "../keep.js";
import { byId } from "./dom.js";

const THEMES = ["system", "light", "dark"];

export class Layout {
  #narrow = matchMedia("(max-width: 56rem)");
  #opener = /** @type {HTMLElement | null} */ (null);

  constructor() {
    for (const side of /** @type {const} */ (["sidebar", "settings"])) {
      byId(`${side}-toggle`).addEventListener("click", () => this.toggle(side));
      byId(`${side}-close`).addEventListener("click", () => this.set(side, false));
    }
    byId("backdrop").addEventListener("click", () => this.closeDrawers());
    byId("theme-toggle").addEventListener("click", () => this.nextTheme());
    this.#narrow.addEventListener("change", () => this.#arrange());
    this.#arrange();
    this.#showTheme();
  }

  get narrow() {
    return this.#narrow.matches;
  }

  /** @param {"sidebar" | "settings"} side */
  isOpen(side) {
    return !byId(side).hidden;
  }

  /** @param {"sidebar" | "settings"} side */
  toggle(side) {
    this.set(side, !this.isOpen(side));
  }

  /** @param {"sidebar" | "settings"} side @param {boolean} open */
  set(side, open) {
    if (this.narrow && open) {
      this.set(side === "sidebar" ? "settings" : "sidebar", false);
      this.#opener = /** @type {HTMLElement} */ (document.activeElement);
    }
    byId(side).hidden = !open;
    byId(`${side}-toggle`).setAttribute("aria-expanded", String(open));
    if (!this.narrow) keep(side, open);
    this.#cover();
    if (open && (this.narrow || side === "settings")) byId(`${side}-close`).focus();
    if (!open && this.narrow) this.#opener?.focus();
  }

  /** @returns {boolean} whether one was open */
  closeDrawers() {
    if (!this.narrow) return false;
    const open = this.isOpen("sidebar") || this.isOpen("settings");
    this.set("sidebar", false);
    this.set("settings", false);
    return open;
  }

  nextTheme() {
    const theme = THEMES[(THEMES.indexOf(recall("theme", "system")) + 1) % THEMES.length];
    keep("theme", theme === "system" ? null : theme);
    document.dispatchEvent(new Event("themechange"));
    this.#showTheme();
  }

  #showTheme() {
    const theme = recall("theme", "system");
    const label = `Colours: ${theme === "system" ? "as the system" : theme}`;
    const button = byId("theme-toggle");
    button.setAttribute("aria-label", label);
    button.title = label;
    button.querySelector("use")?.setAttribute("href", `#icon-theme-${theme}`);
  }

  #arrange() {
    for (const [side, open] of /** @type {const} */ ([["sidebar", true], ["settings", false]])) {
      const shown = this.narrow ? false : recall(side, open);
      byId(side).hidden = !shown;
      byId(`${side}-toggle`).setAttribute("aria-expanded", String(shown));
    }
    this.#cover();
  }

  /** What lies under a drawer can be neither clicked nor reached by the keyboard. */
  #cover() {
    const covered = this.narrow && (this.isOpen("sidebar") || this.isOpen("settings"));
    byId("backdrop").hidden = !covered;
    byId("main").inert = covered;
  }
}
