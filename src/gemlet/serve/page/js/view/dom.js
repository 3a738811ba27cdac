/** Making elements, and a few things that every view needs. */

/**
 * @param {string} tag
 * @param {Record<string, any>} [attributes]  `onclick` and its like take functions; null and false leave one out
 * @param {...(Node | string | null)} children
 * @returns {HTMLElement}
 */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** @param {string} name  of a symbol in index.html */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/**
 * @param {string} name    of the icon
 * @param {string} label   for a screen reader and as a tooltip
 * @param {(event: Event) => void} action
 * @param {Record<string, any>} [attributes]
 */
export function iconButton(name, label, action, attributes = {}) {
  return el(
    "button",
    { type: "button", class: "icon-button", "aria-label": label, title: label, onclick: action, ...attributes },
    icon(name),
  );
}

/**
 * @template {HTMLElement} T
 * @param {string} id
 * @returns {T}
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return /** @type {T} */ (found);
}

/** @param {string} text */
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Without TLS and not on this machine there is no clipboard object.
  const area = el("textarea", { class: "visually-hidden", readonly: true });
  document.body.append(area);
  /** @type {HTMLTextAreaElement} */ (area).value = text;
  /** @type {HTMLTextAreaElement} */ (area).select();
  document.execCommand("copy");
  area.remove();
}

/** Says something to a screen reader. @param {string} text */
export function announce(text) {
  const region = byId("announcer");
  region.textContent = "";
  // A region that is set to the text it already has is not read again.
  setTimeout(() => (region.textContent = text), 30);
}

/** @param {HTMLTextAreaElement} area  grows with its text, up to what the stylesheet allows */
export function fitHeight(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + area.offsetHeight - area.clientHeight}px`;
}

const number = new Intl.NumberFormat("en");

/** @param {number} value */
export function grouped(value) {
  return number.format(value);
}

/** Whether the system asks for less movement. */
export function reducedMotion() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}
