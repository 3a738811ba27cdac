/** Puts the page together: which conversation is open, and what each control does. */
import { apiKey, ApiError, listModels } from "./api.js";
import { Chat } from "./chat.js";
import { addTo, download, fileName, fromJson, toJson, toMarkdown } from "./exchange.js";
import { forgetDrafts, keep, recall } from "./keep.js";
import { fillHelp, listen } from "./shortcuts.js";
import { openStore } from "./store.js";
import { newConversation, noSettings, siblings } from "./tree.js";
import { Composer } from "./view/composer.js";
import { askKey, confirm, toast } from "./view/dialogs.js";
import { byId } from "./view/dom.js";
import { Layout } from "./view/layout.js";
import { ModelPicker } from "./view/models.js";
import { SettingsPanel } from "./view/settings.js";
import { Sidebar } from "./view/sidebar.js";
import { Thread } from "./view/thread.js";

const store = await openStore();
if (!store.lasting) toast("This browser keeps nothing for this page: conversations are lost when it is closed.");

const layout = new Layout();
const chat = new Chat(store, blank(), newKey);
const picker = new ModelPicker(chooseModel);
const settings = new SettingsPanel(chat, keepSettings, (chosen) => {
  keep("defaults", chosen);
  toast("New chats begin with these settings.");
});
const composer = new Composer(chat, send, () => picker.chosen?.contextLength ?? null);
const actions = {
  edit: (message, text) => settingsAreFine() && chat.edit(message, text),
  regenerate: (message) => settingsAreFine() && chat.regenerate(message),
  choose: (message) => chat.choose(message),
  keepEdit: (id, draft) => keep(`edit.${id}`, draft),
};
const thread = new Thread(chat, actions, (text) => composer.fill(text));
const sidebar = new Sidebar(store, chat, { open, rename, remove, save });

/** A conversation that has not begun; its settings are kept like unsent text. */
function blank() {
  const begun = recall("new", null) ?? { model: recall("model", ""), settings: recall("defaults", noSettings()) };
  return newConversation(begun.model, { ...noSettings(), ...begun.settings });
}

/** @param {string} id @param {string} [message] */
async function open(id, message) {
  if (!(await chat.open(id, message))) {
    toast("This conversation is not here; it may have been deleted.");
    startNew();
    return;
  }
  if (location.hash !== `#c=${id}`) history.pushState(null, "", `#c=${id}`);
  layout.closeDrawers();
  if (message) thread.reveal(message);
  const edit = recall(`edit.${id}`, null);
  if (edit) thread.views.find((view) => view.message.id === edit.message)?.startEdit(edit.text);
}

function startNew() {
  if (location.hash) history.pushState(null, "", location.pathname + location.search);
  chat.show(blank());
  layout.closeDrawers();
  composer.focus();
}

/** @param {string} text @returns {boolean} */
function send(text) {
  if (!settingsAreFine()) return false;
  const first = chat.empty;
  const { meta } = chat.current;
  if (first) {
    keep("new", null);
    history.pushState(null, "", `#c=${meta.id}`);
  }
  chat.send(text);
  return true;
}

function settingsAreFine() {
  const problem = settings.problem;
  if (!problem && chat.current.meta.model) return true;
  if (problem) {
    layout.set("settings", true);
    problem.control.focus();
  }
  toast(problem?.text ?? "No model is there to answer.");
  return false;
}

function keepSettings() {
  const { model, settings: chosen } = chat.current.meta;
  if (chat.empty) keep("new", { model, settings: chosen });
  else chat.saveMeta();
}

/** @param {string} id */
function chooseModel(id) {
  chat.current.meta.model = id;
  keep("model", id);
  keepSettings();
  composer.refresh();
}

/** @param {boolean} refused */
async function newKey(refused) {
  const key = await askKey(refused || apiKey.get() !== "");
  if (key === null) return false;
  apiKey.set(key);
  return true;
}

async function loadModels() {
  byId("trouble").hidden = true;
  for (;;) {
    try {
      picker.fill(await listModels());
      showModel();
      return;
    } catch (error) {
      if (error instanceof ApiError && error.status === 401 && (await newKey(false))) continue;
      byId("trouble-text").textContent = error.message;
      byId("trouble").hidden = false;
      return;
    }
  }
}

function showModel() {
  const { meta } = chat.current;
  // What was never asked of a model may be asked of another one.
  if (picker.first && (!meta.model || (chat.empty && !picker.serves(meta.model)))) meta.model = picker.first;
  picker.choose(meta.model);
  composer.refresh();
}

/** @param {string} id @param {string} title */
async function rename(id, title) {
  const conversation = chat.current.meta.id === id ? chat.current : (chat.runs.get(id)?.conversation ?? (await store.load(id)));
  if (!conversation) return;
  Object.assign(conversation.meta, { title, named: true });
  await chat.saveMeta(conversation);
  showTitle();
}

/** @param {string} id */
async function remove(id) {
  chat.discard(id);
  const removed = await store.remove(id);
  if (!removed) return;
  if (chat.current.meta.id === id) startNew();
  chat.changed(id);
  const undo = async () => {
    await store.save(removed);
    chat.changed(id);
  };
  toast(`Deleted “${removed.meta.title}”.`, { label: "Undo", action: undo });
}

/** @param {string} id @param {"markdown" | "json"} format */
async function save(id, format) {
  const conversation = chat.runs.get(id)?.conversation ?? (await store.load(id));
  if (!conversation) return;
  const name = fileName(conversation.meta.title);
  if (format === "markdown") download(`${name}.md`, "text/markdown", toMarkdown(conversation));
  else download(`${name}.json`, "application/json", toJson([conversation]));
}

async function saveAll() {
  const all = await Promise.all((await store.list()).map((meta) => store.load(meta.id)));
  const day = new Date().toISOString().slice(0, 10);
  download(`gemlet-${day}.json`, "application/json", toJson(all.filter((conversation) => conversation !== null)));
}

/** @param {File} file */
async function importFile(file) {
  try {
    const added = await addTo(store, fromJson(await file.text()));
    toast(added === 1 ? "One conversation was imported." : `${added} conversations were imported.`);
  } catch (error) {
    toast(error.message);
  }
  chat.changed(null);
}

async function removeAll() {
  if (!(await confirm("Delete all conversations and unsent text of this page? This cannot be undone.", "Delete all"))) return;
  for (const id of [...chat.runs.keys()]) chat.discard(id);
  await store.clear();
  forgetDrafts();
  startNew();
  chat.changed(null);
}

function showTitle() {
  const title = chat.empty ? "" : chat.current.meta.title;
  byId("title").textContent = title;
  document.title = title ? `${title} · gemlet` : "gemlet";
}

/** Shows the conversation that the address names. */
async function follow() {
  const id = /^#c=(\w+)$/.exec(location.hash)?.[1];
  if (id) await open(id);
  else chat.show(blank());
}

/** @param {KeyboardEvent} event */
function escape(event) {
  if (document.querySelector("#menu:popover-open")) return;
  if (layout.closeDrawers()) return;
  if (chat.run) chat.stop();
  else if (byId("settings").contains(/** @type {Node} */ (event.target))) layout.set("settings", false);
  else if (event.target === byId("prompt")) byId("thread").focus();
  else composer.focus();
}

function search() {
  layout.set("sidebar", true);
  sidebar.focusSearch();
}

/** @param {number} by */
function stepBranch(by) {
  const message = (thread.target("assistant") ?? thread.target("user"))?.message;
  const focused = thread.views.find((view) => view.root.contains(document.activeElement))?.message ?? message;
  if (!focused || chat.run) return;
  const all = siblings(chat.current, focused);
  const next = all[all.findIndex(({ id }) => id === focused.id) + by];
  if (!next) return;
  chat.choose(next);
  thread.views.find((view) => view.message.id === next.id)?.root.focus();
}

const help = () => /** @type {HTMLDialogElement} */ (byId("help")).showModal();

const SINGLE = [
  { keys: ["n"], label: "New chat", action: startNew },
  { keys: ["c"], label: "To the box", action: () => composer.focus() },
  { keys: ["/"], label: "Search", action: search },
  { keys: ["j", "k"], label: "Next, previous message" },
  { keys: ["[", "]"], label: "Previous, next branch" },
  { keys: ["e"], label: "Edit the question", action: () => !chat.run && thread.target("user")?.startEdit() },
  { keys: ["r"], label: "Another answer", action: regenerateTarget },
  { keys: ["y"], label: "Copy the answer", action: () => thread.target("assistant")?.copy() },
  { keys: ["s"], label: "Settings", action: () => layout.toggle("settings") },
  { keys: ["b"], label: "Conversations", action: () => layout.toggle("sidebar") },
  { keys: ["t"], label: "Colours", action: () => layout.nextTheme() },
  { keys: ["?"], label: "This help", action: help },
];
const PAIRS = [
  { keys: ["j"], label: "", action: () => thread.step(1) },
  { keys: ["k"], label: "", action: () => thread.step(-1) },
  { keys: ["["], label: "", action: () => stepBranch(-1) },
  { keys: ["]"], label: "", action: () => stepBranch(1) },
];
const ALWAYS = [
  { keys: ["Enter"], label: "Send" },
  { keys: ["Shift Enter"], label: "New line" },
  { keys: ["Esc"], label: "Stop the answer; leave the box" },
  { keys: ["↑"], label: "In an empty box: edit the last question" },
  { keys: ["Ctrl K"], label: "Search" },
  { keys: ["F2", "Del"], label: "In the list: rename, delete" },
];

function regenerateTarget() {
  const message = thread.target("assistant")?.message;
  if (message && !chat.run) actions.regenerate(message);
}

function start() {
  fillHelp(ALWAYS, SINGLE);
  listen([...SINGLE.filter(({ action }) => action), ...PAIRS], {
    search, escape, editLast: () => !chat.run && thread.target("user")?.startEdit(),
  });
  chat.addEventListener("open", () => {
    showModel();
    showTitle();
  });
  chat.addEventListener("failed", (event) => toast(/** @type {CustomEvent} */ (event).detail));
  /** @type {[string, () => void][]} */
  const clicks = [
    ["new-chat", startNew], ["help-open", help], ["trouble-retry", loadModels], ["save-all", saveAll],
    ["remove-all", removeAll], ["import", () => byId("import-file").click()],
    ["help-close", () => /** @type {HTMLDialogElement} */ (byId("help")).close()],
  ];
  for (const [id, action] of clicks) byId(id).addEventListener("click", action);
  byId("import-file").addEventListener("change", (event) => {
    const input = /** @type {HTMLInputElement} */ (event.target);
    if (input.files?.[0]) importFile(input.files[0]);
    input.value = "";
  });
  addEventListener("popstate", follow);
  addEventListener("pagehide", () => chat.leave());
  // A page that the browser kept frozen has lost its connections and may be out of date.
  addEventListener("pageshow", (event) => event.persisted && location.reload());
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible" && !byId("trouble").hidden) loadModels();
  });
}

start();
await follow();
await loadModels();
composer.focus();
document.documentElement.dataset.ready = "";
