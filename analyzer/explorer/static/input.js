// The picture as the network sees it, with the receptive field of the unit under the pointer; evidence; predictions.

import { bitmap, image, json, packed } from "./api.js";
import { color, digits, fitted, show } from "./draw.js";
import { about as near, numbersOf, strongest, whenHovered } from "./grid.js";
import { roving } from "./roving.js";
import { exported } from "./source.js";
import { known, layer, live, query, set, shownPicture, state, subscribe } from "./store.js";
import { optionsOf } from "./url.js";

/** @param {string} id @returns {any} */
const $ = (id) => document.getElementById(id);
/** @type {{rows: number[][], columns: number[][]} | null} */
let fields = null;

async function picture() {
  const named = known.pictures.find((one) => one.key === state.picture);
  $("picture-name").textContent = named ? named.name : "";
  try {
    const found = await image(`picture/${shownPicture()}`, { seen: 1, model: Math.min(state.model, 1) }, "picture");
    if (!found) return;
    show($("picture"), found);
    $("picture").dataset.shown = state.picture;
  } catch (error) {
    show($("picture"), null);
    throw error;
  } finally {
    outline(null);
  }
}

async function second() {
  const one = known.pictures.find(({ key }) => key === state.second);
  $("beside").hidden = !state.second;
  if (!state.second) return;
  show($("second"), await image(`picture/${shownPicture(state.second)}`, { seen: 1, model: Math.min(state.model, 1) }, "second"));
  $("second-name").textContent = one ? one.name : "";
}

async function spans() {
  fields = null;
  fields = await json(`spans/${shownPicture()}/${state.layer}`, { model: Math.min(state.model, 1) }, "spans");
  outline(null);
}

/** What the model says of the picture. @type {any[]} */
let found = [];

/** The target that is explained: top1 is the first prediction, of two models that of the reference. @returns {string} */
function explained() { return state.target === "top1" && first ? first : state.target; }
/** The target of the first prediction. */
let first = "";

/** Frames the boxes of predictions. @param {CanvasRenderingContext2D} context @param {number} w @param {number} h */
function boxes(context, w, h) {
  for (const { seen, target } of found) {
    if (!seen) continue;
    context.strokeStyle = color(target === explained() ? "--accent" : "--faint");
    context.lineWidth = (target === explained() ? 2 : 1) * (window.devicePixelRatio || 1);
    context.strokeRect(seen[0] * w, seen[1] * h, (seen[2] - seen[0]) * w, (seen[3] - seen[1]) * h);
  }
}

/** Pixels of the picture under the pointer. @param {MouseEvent} event @returns {[number, number]} y, x */
function pixel(event) {
  const canvas = $("picture"), factor = canvas.width / canvas.clientWidth;
  return [event.offsetY * factor, event.offsetX * factor];
}

/**
 * The place of the grid whose field has its middle nearest to a pixel; where all see everything, the one that lies there.
 * @param {number[][]} spans @param {number} at @param {number} size  pixels of the picture along the axis
 */
function nearest(spans, at, size) {
  if (spans.every(([a, b]) => a <= 0 && b >= size)) return Math.max(0, Math.min(spans.length - 1, Math.floor(at / size * spans.length)));
  const far = spans.map(([a, b]) => Math.abs((a + b) / 2 - at));
  return far.indexOf(Math.min(...far));
}

/** @param {MouseEvent} event @returns {{y: number, x: number}} the place of the grid under the pointer */
function under(event) {
  const [y, x] = pixel(event), { height, width } = $("picture");
  return fields ? { y: nearest(fields.rows, y, height), x: nearest(fields.columns, x, width) } : { y: 0, x: 0 };
}

async function units(/** @type {MouseEvent} */ event) {
  const about = layer();
  if (!fields || !about) return;
  const place = about.grid.length ? under(event) : { y: 0, x: 0 };
  outline(place);
  const said = exported ? { units: strongest(place.y, place.x) } : await json(`place/${shownPicture()}/${state.layer}`, { ...place, model: state.model, ...query() }, "place");
  if (!said) return;
  const named = said.units.map((/** @type {[number, number]} */ [unit, value]) => `${unit} (${digits(value)})`).join(", ");
  $("where").textContent = `strongest units${about.grid.length ? ` at ${place.y}, ${place.x}` : ""}: ${named}`;
}

$("picture").addEventListener("pointermove", units);
$("picture").addEventListener("pointerleave", () => { outline(null); $("where").textContent = title(); });
$("picture").addEventListener("click", (/** @type {MouseEvent} */ event) => {
  const [y, x] = pixel(event);
  const inside = found.filter(({ seen }) => seen && seen[0] <= x && x <= seen[2] && seen[1] <= y && y <= seen[3]);
  const area = (/** @type {any} */ one) => (one.seen[2] - one.seen[0]) * (one.seen[3] - one.seen[1]);
  inside.sort((a, b) => area(a) - area(b));
  if (inside.length) set({ target: inside[0].target });
  const { heads, grid } = layer();
  if (!heads || !fields || exported) return;
  const place = under(event), token = place.y * grid[1] + place.x;
  set({ query: token === state.query ? -1 : token });
});

/** Frames what a unit depends on. @param {{y: number, x: number} | null} place */
export function outline(place) {
  const context = fitted($("outline")), at = place || (state.y >= 0 ? state : null);
  const [h, w] = [context.canvas.height / $("picture").height, context.canvas.width / $("picture").width];
  boxes(context, w, h);
  token(context);
  if (!at || !fields || !fields.rows[at.y] || !fields.columns[at.x]) return;
  const [[y0, y1], [x0, x1]] = [fields.rows[at.y], fields.columns[at.x]];
  const line = 2 * (window.devicePixelRatio || 1);
  /** @param {number} v @param {number} most */
  const inside = (v, most) => Math.max(line / 2, Math.min(most - line / 2, v));
  context.strokeStyle = color("--mark"); context.lineWidth = line;
  const [left, top] = [inside(x0 * w, context.canvas.width), inside(y0 * h, context.canvas.height)];
  context.strokeRect(left, top, inside(x1 * w, context.canvas.width) - left, inside(y1 * h, context.canvas.height) - top);
}

/** Frames the patch of the token whose attention is shown. @param {CanvasRenderingContext2D} context */
function token(context) {
  const at = layer() ? query().query : undefined;
  if (at === undefined) return;
  const [rows, columns] = layer().grid, [h, w] = [context.canvas.height / rows, context.canvas.width / columns];
  context.strokeStyle = color("--accent"); context.lineWidth = 2 * (window.devicePixelRatio || 1);
  context.strokeRect((at % columns) * w, Math.floor(at / columns) * h, w, h);
}

/** What the pointer is over. @type {{unit: number, y: number, x: number} | null} */
let hovered = null;

whenHovered(async (place) => {
  outline(place);
  hovered = place;
  if (!place) { $("where").textContent = title(); return; }
  const said = `unit ${place.unit} at ${place.y}, ${place.x}: `;
  $("where").textContent = said + near(place);
  if (exported) return;
  const map = await numbersOf(place.unit, "hovered");
  if (map && hovered === place) $("where").textContent = said + digits(map.numbers[place.y * map.grid[1] + place.x]);
});

/** @returns {string} */
export function title() {
  const about = layer();
  return about ? `${about.name}, unit ${state.unit}` : "";
}

/** Explains the target; with two models by both, one below the other. */
async function evidence() {
  const both = known.models.length > 1;
  $("other-side").hidden = !both;
  try {
    const target = both && state.target === "top1" ? await reference() : state.target;
    if (target) await Promise.all([explain(0, target, "evidence"), ...(both ? [explain(1, target, "other")] : [])]);
  } catch (error) {
    $("evidence-note").textContent = /** @type {Error} */ (error).message;
  }
}

/** What the reference says first, which both explain. @returns {Promise<string | null>} */
async function reference() {
  const said = await json(`predictions/${shownPicture()}`, { model: 0 }, "reference");
  return said && (said.predictions.length ? said.predictions[0].target : "top1");
}

/** @param {number} model @param {string} target @param {string} name of the canvas, and of its title and note */
async function explain(model, target, name) {
  /** @type {Record<string, string>} */
  const options = state.options ? { options: JSON.stringify(optionsOf(state.options)) } : {};
  const asked = { target, model, method: state.method || known.models[0].method, layer: state.at, ...options };
  const side = known.models.length > 1 ? `${["reference", "candidate"][model]}: ` : "";
  try {
    const found = await packed(bitmap, `explain/${shownPicture()}`, asked, name);
    if (!found) return;
    show($(name), found.data);
    $(name).dataset.shown = `${state.picture}/${target}/${asked.method}`;
    $(`${name}-title`).title = $(`${name}-title`).textContent = `${side}${asked.method} of ${found.about.title}`;
    $(`${name}-note`).textContent = found.about.diagnosis || `${digits(found.about.low)} … ${digits(found.about.high)}${found.about.layer ? `, layer ${found.about.layer}` : ""}`;
  } catch (error) {
    show($(name), null);
    $(`${name}-title`).textContent = `${side}${asked.method} of ${target}`;
    $(`${name}-note`).textContent = /** @type {Error} */ (error).message;
  }
}

roving($("predictions"));

async function predictions() {
  const list = $("predictions");
  list.hidden = !state.labels;
  if (!state.labels) return;
  try {
    const all = await Promise.all(known.models.map((_, model) => json(`predictions/${shownPicture()}`, { model }, `predictions-${model}`)));
    if (all.some((said) => !said)) return;
    found = all[state.model === 1 ? 1 : 0].predictions;
    first = all[0].predictions.length ? all[0].predictions[0].target : "";
    const most = Math.max(...found.map((p) => p.score), 1e-9);
    list.replaceChildren(...found.map((p) => row(p, most, all.map((said) => said.predictions.find((/** @type {any} */ one) => one.target === p.target)))));
    $("predicted-by").textContent = all.length > 1 ? "reference, candidate" : "";
    chosen();
    outline(null);
  } catch (error) {
    list.replaceChildren();
    $("evidence-note").textContent = /** @type {Error} */ (error).message;
  }
}

/** @param {any} prediction @param {number} most @param {any[]} all  the same of each model @returns {HTMLElement} */
function row(prediction, most, all) {
  const item = document.createElement("li"), button = document.createElement("button");
  const words = [prediction.label, ...all.map((one) => (one ? digits(one.score) : "–"))];
  button.type = "button"; button.value = prediction.target;
  button.append(...words.map((text) => { const made = document.createElement("span"); made.textContent = text; return made; }));
  button.style.setProperty("--share", `${Math.max(0, 100 * prediction.score / most)}%`);
  button.addEventListener("click", () => set({ target: prediction.target, evidence: "method" }));
  item.append(button);
  return item;
}

function chosen() {
  for (const button of $("predictions").querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.value === explained()));
}

export function methods() {
  const choice = document.createElement("select");
  choice.setAttribute("aria-label", "Method");
  for (const name of known.models[0].methods) choice.add(new Option(name, name, false, name === (state.method || known.models[0].method)));
  choice.addEventListener("change", () => set({ method: choice.value, options: "" }));
  $("modes").replaceChildren(choice);
  const { layers, options } = known.models[0], taken = options?.[choice.value] || {};
  $("target").value = state.target;
  $("at").replaceChildren(new Option("chosen automatically", "-1"), ...layers.map((/** @type {any} */ one, /** @type {number} */ at) => new Option(one.name, String(at))));
  $("at").value = String(state.at);
  $("options").value = state.options;
  $("options").placeholder = Object.entries(taken).map(([name, value]) => `${name}=${value}`).join(" ") || "none";
}
$("target").addEventListener("change", () => set({ target: $("target").value.trim() || "top1" }));
$("at").addEventListener("change", () => set({ at: Number($("at").value) }));
$("options").addEventListener("change", () => set({ options: $("options").value.trim() }));

export function load() { picture(); second(); spans(); evidence(); predictions(); }

subscribe((changed) => {
  if (changed.has("picture") || changed.has("model")) { picture(); predictions(); }
  if (live.on) return;
  if (["picture", "layer", "model"].some((name) => changed.has(name))) spans();
  else if (["y", "x", "query"].some((name) => changed.has(name))) outline(null);
  if (["picture", "target", "method", "at", "options"].some((name) => changed.has(name))) evidence();
  if (changed.has("target")) { chosen(); outline(null); }
  if (changed.has("labels")) predictions();
  if (changed.has("second")) second();
  if (["method", "target", "at", "options"].some((name) => changed.has(name))) methods();
  if (changed.has("unit") || changed.has("layer")) $("where").textContent = title();
});
