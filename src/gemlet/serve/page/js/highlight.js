/** Colours for code. The result is spans with a class and text, whatever the code holds. */
import DOMPurify from "../vendor/purify.js";
import hljs from "../vendor/highlight/core.js";
import bash from "../vendor/highlight/bash.js";
import c from "../vendor/highlight/c.js";
import cpp from "../vendor/highlight/cpp.js";
import csharp from "../vendor/highlight/csharp.js";
import css from "../vendor/highlight/css.js";
import diff from "../vendor/highlight/diff.js";
import go from "../vendor/highlight/go.js";
import ini from "../vendor/highlight/ini.js";
import java from "../vendor/highlight/java.js";
import javascript from "../vendor/highlight/javascript.js";
import json from "../vendor/highlight/json.js";
import kotlin from "../vendor/highlight/kotlin.js";
import markdown from "../vendor/highlight/markdown.js";
import php from "../vendor/highlight/php.js";
import python from "../vendor/highlight/python.js";
import ruby from "../vendor/highlight/ruby.js";
import rust from "../vendor/highlight/rust.js";
import shell from "../vendor/highlight/shell.js";
import sql from "../vendor/highlight/sql.js";
import typescript from "../vendor/highlight/typescript.js";
import xml from "../vendor/highlight/xml.js";
import yaml from "../vendor/highlight/yaml.js";

const LANGUAGES = {
  bash, c, cpp, csharp, css, diff, go, ini, java, javascript, json, kotlin, markdown, php, python, ruby, rust, shell,
  sql, typescript, xml, yaml,
};
for (const [name, language] of Object.entries(LANGUAGES)) hljs.registerLanguage(name, language);

// Colouring is done anew for every piece of a growing block.
const LONGEST = { growing: 8_000, complete: 100_000 };

const purifier = DOMPurify(window);

/**
 * @param {string} code
 * @param {string} language  as a fence names it
 * @param {boolean} complete  whether no more code will come
 * @returns {DocumentFragment | null} null where it stays without colours
 */
export function highlight(code, language, complete) {
  if (!hljs.getLanguage(language) || code.length > (complete ? LONGEST.complete : LONGEST.growing)) return null;
  const html = hljs.highlight(code, { language, ignoreIllegals: true }).value;
  return /** @type {DocumentFragment} */ (
    purifier.sanitize(html, { ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"], RETURN_DOM_FRAGMENT: true })
  );
}
