/** Small things that are kept in this browser beside the conversations: unsent text, defaults, switches. */

const PREFIX = "gemlet.";

/**
 * @param {string} name
 * @param {any} otherwise
 */
export function recall(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(PREFIX + name) ?? "null") ?? otherwise;
  } catch {
    return otherwise;
  }
}

/**
 * @param {string} name
 * @param {any} value  null forgets it
 */
export function keep(name, value) {
  try {
    if (value === null || value === "") localStorage.removeItem(PREFIX + name);
    else localStorage.setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    // Storage is full or forbidden: the page works on without.
  }
}

/** Forgets all unsent text. */
export function forgetDrafts() {
  for (const key of Object.keys(localStorage)) {
    if (key.startsWith(`${PREFIX}draft.`) || key.startsWith(`${PREFIX}edit.`)) localStorage.removeItem(key);
  }
}
