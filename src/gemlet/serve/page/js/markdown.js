/**
 * Markdown of a model to nodes that can do no harm. Three layers: HTML in an answer is shown as text (but for a few
 * bare tags), DOMPurify keeps a short list of elements and attributes, and the page's own policy (index.html) allows
 * no script and no request that these could ask for.
 */
import { Marked } from "../vendor/marked.js";
import DOMPurify from "../vendor/purify.js";
import { el, icon } from "./view/dom.js";
import { highlight } from "./highlight.js";

const TAGS = (
  "a b blockquote br code del details em h1 h2 h3 h4 h5 h6 hr i img ins kbd li mark ol p pre s small strong sub " +
  "summary sup table tbody td th thead tr u ul"
).split(" ");
const BARE_TAGS = "b br del details em i ins kbd mark s small strong sub summary sup u".split(" ");
const BARE = new RegExp(`^(?:\\s*</?(?:${BARE_TAGS.join("|")})\\s*/?>\\s*)+$`, "i");
const PICTURE = /^data:image\/(?:png|jpeg|gif|webp);base64,/i;
const ADDRESS = /^(?:https?:\/\/|mailto:)/i;

const marked = new Marked({
  gfm: true,
  renderer: {
    html: ({ text }) => (BARE.test(text) ? text : escapeHtml(text)),
    // An <input> is not among the tags.
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

const purifier = DOMPurify(window);
purifier.addHook("uponSanitizeAttribute", (node, data) => {
  if (data.attrName === "class") data.keepAttr = node.nodeName === "CODE" && /^language-[\w+#.-]+$/.test(data.attrValue);
  if (data.attrName === "src") data.keepAttr = node.nodeName === "IMG";
});
purifier.addHook("afterSanitizeAttributes", (node) => {
  if (node.nodeName === "A") secureLink(node);
  if (node.nodeName === "IMG" && !PICTURE.test(node.getAttribute("src") ?? "")) node.replaceWith(pictureLink(node));
});

const PURIFY = {
  ALLOWED_TAGS: TAGS,
  ALLOWED_ATTR: ["href", "title", "alt", "src", "class", "align", "start", "open"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

/** @param {string} text */
function escapeHtml(text) {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

/** @param {Element} link */
function secureLink(link) {
  const address = (link.getAttribute("href") ?? "").trim();
  if (!ADDRESS.test(address)) {
    link.removeAttribute("href");
    return;
  }
  link.setAttribute("target", "_blank");
  link.setAttribute("rel", "noopener noreferrer nofollow");
  if (!link.getAttribute("title")) link.setAttribute("title", address);
}

/** A picture from elsewhere would tell its server that the answer was read: it becomes a link. @param {Element} picture */
function pictureLink(picture) {
  const address = (picture.getAttribute("src") ?? "").trim();
  const name = picture.getAttribute("alt") || address || "picture";
  const link = el("a", { class: "picture-link", href: address || null }, `Picture: ${name}`);
  secureLink(link);
  return link;
}

/**
 * @param {string} html
 * @returns {DocumentFragment}
 */
function purify(html) {
  return /** @type {DocumentFragment} */ (purifier.sanitize(html, PURIFY));
}

/** Shows a growing text: only the blocks that changed are made anew, so that a selection in a finished one stays. */
export class MarkdownView {
  /** @type {{key: string, nodes: Node[]}[]} */
  #blocks = [];

  /** @param {HTMLElement} root */
  constructor(root) {
    this.root = root;
  }

  /**
   * @param {string} text
   * @param {boolean} [complete]  whether no more text will come
   */
  show(text, complete = true) {
    const tokens = marked.lexer(text);
    const blocks = tokens.filter((token) => token.type !== "space" && token.type !== "def");
    let same = 0;
    // A definition that comes later makes links of what was text before.
    const links = Object.keys(tokens.links).join();
    const key = (token, index) => [token.raw, complete || index < blocks.length - 1, links].join("\u0000");
    while (same < this.#blocks.length && same < blocks.length && this.#blocks[same].key === key(blocks[same], same)) same++;
    for (const block of this.#blocks.splice(same)) for (const node of block.nodes) node.remove();
    blocks.slice(same).forEach((token, offset) => {
      const index = same + offset;
      const single = Object.assign([token], { links: tokens.links });
      const fragment = purify(marked.parser(single));
      for (const code of fragment.querySelectorAll("pre > code")) decorate(code, complete || index < blocks.length - 1);
      for (const table of fragment.querySelectorAll("table")) wrapTable(table);
      const nodes = [...fragment.childNodes];
      this.#blocks.push({ key: key(token, index), nodes });
      this.root.append(...nodes);
    });
  }
}

/** @param {Element} table  scrolls sideways by itself instead of widening the page */
function wrapTable(table) {
  const wrapper = el("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" });
  table.replaceWith(wrapper);
  wrapper.append(table);
}

/**
 * Gives a block of code its colours, its language's name and a copy button.
 * @param {Element} code
 * @param {boolean} complete
 */
function decorate(code, complete) {
  const text = (code.textContent ?? "").replace(/\n$/, "");
  const language = /^language-(.+)$/.exec(code.className)?.[1] ?? "";
  const coloured = highlight(text, language, complete);
  code.replaceChildren(...(coloured ? coloured.childNodes : [text]));
  const pre = /** @type {Element} */ (code.parentElement);
  const copy = el("button", { type: "button", class: "ghost copy-code", "aria-label": "Copy code" }, icon("copy"), "Copy");
  const block = el("div", { class: "code" }, el("div", { class: "code-head" }, el("span", {}, language || "text"), copy));
  pre.replaceWith(block);
  pre.setAttribute("tabindex", "0");
  pre.setAttribute("aria-label", `Code${language ? `, ${language}` : ""}`);
  pre.setAttribute("role", "region");
  block.append(pre);
}
