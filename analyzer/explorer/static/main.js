// Asks for the models and pictures, then builds the panes.

import { blob, json, whenBusy } from "./api.js";
import * as card from "./card.js";
import { composed, save } from "./download.js";
import * as grid from "./grid.js";
import * as input from "./input.js";
import { help } from "./keys.js";
import * as map from "./map.js";
import * as rank from "./rank.js";
import { framed, Refused, whenGone } from "./source.js";
import { hash, layer, known, possible, set, settled, start as started, state, subscribe } from "./store.js";
import * as strip from "./strip.js";
import * as unit from "./unit.js";
import { fragment, optionsOf } from "./url.js";

/** @param {string} id @returns {any} */
const $ = (id) => document.getElementById(id);

/** @type {number | undefined} */
let timer;
whenBusy((count) => {
  clearTimeout(timer);
  if (count) timer = setTimeout(() => { $("busy").textContent = "working…"; }, 100);
  else { $("busy").textContent = ""; settled(); }
  document.body.dataset.idle = String(count === 0);
});
addEventListener("unhandledrejection", (event) => {  // of what no pane of its own can say
  if (!(event.reason instanceof Refused)) return;
  event.preventDefault();
  $("busy").textContent = event.reason.message;
});
whenGone((gone) => { $("gone").hidden = !gone; });

/** @param {string} text @param {string} name */
async function copy(text, name) {
  try {
    await navigator.clipboard.writeText(text);
    $("busy").textContent = `${name} copied`;
  } catch {
    prompt(name, text);
  }
}

/** @param {string} text as a word of a shell */
const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
/** @param {any} value as Python writes it: text, a number, or a list of them @returns {string} */
const literal = (value) => (typeof value === "boolean" ? (value ? "True" : "False") : JSON.stringify(value));

/** What makes the evidence. */
function shown() {
  const model = known.models[state.model === 1 ? 1 : 0];
  const picture = known.pictures.find((one) => one.key === state.picture);
  return {
    name: model.name, path: picture?.path || "PICTURE", method: state.method || known.models[0].method,
    layer: state.at >= 0 ? known.models[0].layers[state.at].name : "", fit: state.fit,
    options: optionsOf(state.options),
  };
}

/** @returns {string} the command that makes the evidence */
export function command() {
  const { name, path, method, layer, fit, options } = shown();
  const words = [name, path, "-m", method, "-t", state.target, ...(layer ? ["-l", layer] : [])];
  words.push(...Object.entries(options).flatMap(([key, value]) => ["-O", `${key}=${value}`]));
  words.push(...known.settings.words, ...(fit ? ["--resize", fit] : []));
  return `onnx-analyzer explain ${words.map(quoted).join(" ")} -o evidence.png`;
}

/** @returns {string} the same in Python */
export function python() {
  const { name, path, method, layer, fit, options } = shown();
  const keywords = Object.entries({ ...(layer ? { layer } : {}), ...options, ...known.settings.keywords, ...(fit ? { resize: fit } : {}) });
  const given = [name, path, method, state.target].map(literal).concat(keywords.map(([key, value]) => `${key}=${literal(value)}`));
  return `import analyzer; analyzer.explain(${given.join(", ")}).save("evidence.png")`;
}

$("copy-link").addEventListener("click", () => copy(`${location.href.split(/[?#]/)[0]}#${fragment(state)}`, "link"));
$("copy-command").addEventListener("click", () => copy(command(), "command"));
$("copy-python").addEventListener("click", () => copy(python(), "Python line"));
$("help").addEventListener("click", help);
$("side").addEventListener("click", () => set({ model: (state.model + 1) % 3 }));
$("download").addEventListener("click", () => save(composed().toDataURL("image/png"), `${layer()?.name || "units"}.png`));
$("page").addEventListener("click", async () => {
  try {
    const page = await blob(`page/${state.picture}/${state.layer}`);
    if (page) save(URL.createObjectURL(page), `${layer()?.name || "page"}.html`);
  } catch (error) {
    $("busy").textContent = /** @type {Error} */ (error).message;
  }
});

// ---- Search ----

document.addEventListener("find", () => { $("find").showModal(); $("query").value = ""; hits(); $("query").focus(); });
$("query").addEventListener("input", hits);

function hits() {
  const wanted = $("query").value.toLowerCase(), model = known.models[0];
  /** @type {[string, () => void][]} */
  const all = [
    ...model.layers.map((/** @type {any} */ one, /** @type {number} */ at) => [`layer ${one.name}`, () => map.go(at)]),
    ...known.pictures.map((one) => [`picture ${one.name}`, () => set({ picture: one.key })]),
    ...model.labels.map((/** @type {string} */ name, /** @type {number} */ at) => [`class ${name}`, () => set({ target: String(at) })]),
  ];
  const found = all.filter(([text]) => text.toLowerCase().includes(wanted)).slice(0, 30);
  $("hits").replaceChildren(...found.map(([text, run]) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.textContent = text;
    button.addEventListener("click", run);
    item.append(button);
    return item;
  }));
}

// ---- Start ----

const SIDES = ["reference", "candidate", "difference"];
grid.whenDrawn(() => strip.drawn());
subscribe((changed) => {
  if (changed.has("model")) $("side").textContent = SIDES[state.model];
  if (changed.has("zoom")) document.body.dataset.zoom = String(state.zoom);
});

async function start() {
  if (!framed && new URLSearchParams(location.search).has("token")) history.replaceState(null, "", `${location.pathname}${location.hash}`);
  const [models, pictures] = await Promise.all([json("model"), json("pictures")]);
  Object.assign(known, models, pictures);
  const other = state.sha && state.sha !== hash();
  $("model").textContent = known.models.map((one) => one.name.split("/").pop()).join(" · ");
  document.title = `${known.models[0].name.split("/").pop()} – Explorer`;
  $("side").hidden = known.models.length < 2;
  $("side").textContent = SIDES[state.model];
  document.body.dataset.zoom = String(state.zoom);
  set(possible(state));
  started();
  for (const one of document.querySelectorAll("[inert]")) one.removeAttribute("inert");
  strip.build(); map.build(); unit.buttons(); input.methods();  // the strip first: it takes room from the others
  grid.load(); input.load(); unit.project(); map.drifts(); card.ask(); rank.load();
  $("where").textContent = other ? "the link is of another model" : input.title();
}

start().catch((error) => { $("where").textContent = error.message; });
