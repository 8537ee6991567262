// The chosen unit: its map, its numbers, and its projection back to the picture.

import { bitmap, cancel, packed } from "./api.js";
import { color, digits, fitted, nearly, show, sized } from "./draw.js";
import { numbersOf, whenDrawn } from "./grid.js";
import { outline } from "./input.js";
import { exported } from "./source.js";
import { known, layer, live, set, shownPicture, state, subscribe } from "./store.js";

/** @param {string} id @returns {any} */
const $ = (id) => document.getElementById(id);

/** @returns {{layer: number, unit: number, y: number, x: number}} what is projected: the pinned unit, or the cursor's */
export function origin() {
  if (!state.pin) return { layer: state.layer, unit: state.unit, y: state.y, x: state.x };
  const [at, unit, y, x] = state.pin.split("/").map(Number);
  return { layer: at, unit, y, x };
}

/** @type {import("./draw.js").Atlas | null} */
let drawn = null;

whenDrawn((atlas, tiles) => {
  drawn = atlas;
  $("tile").hidden = !atlas;
  $("unit-name").textContent = `Unit ${state.unit}${state.y >= 0 ? ` at ${state.y}, ${state.x}` : ""}`;
  if (!atlas || !tiles) { fitted($("tile-cursor")); $("numbers").replaceChildren(); return; }
  const [h, w] = atlas.tile, canvas = $("tile");
  sized(canvas, w, h);
  canvas.getContext("2d").drawImage(tiles, (state.unit % atlas.columns) * w, Math.floor(state.unit / atlas.columns) * h, w, h, 0, 0, w, h);
  const context = fitted($("tile-cursor")), grid = layer().grid;
  if (state.y >= 0 && grid.length) {
    const [high, wide] = [context.canvas.height / grid[0], context.canvas.width / grid[1]];
    context.strokeStyle = color("--mark"); context.lineWidth = 2;
    context.strokeRect(state.x * wide, state.y * high, wide, high);
  }
  const rows = [["lowest", digits(atlas.low[state.unit])], ["highest", digits(atlas.high[state.unit])]];
  $("numbers").replaceChildren(...rows.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
  values();
});

/** The numbers of the unit's map. @type {{grid: number[], numbers: Float32Array} | null} */
let map = null;

async function values() {
  if (!exported) {
    const found = await numbersOf(state.unit, "values");
    if (!found) return;
    map = found;
  }
  value(state.y, state.x);
}

/** Says the value at a place. @param {number} y @param {number} x */
function value(y, x) {
  const rows = $("numbers");
  while (rows.children.length > 4) rows.lastElementChild.remove();
  if (y < 0 || !(exported ? drawn : map)) return;
  const text = map ? digits(map.numbers[y * map.grid[1] + x]) : drawn ? `≈ ${digits(nearly(drawn, state.unit, y, x, layer().grid))}` : "";
  rows.append(element("dt", `at ${y}, ${x}`), element("dd", text));
}

/** The place of the map under the pointer. @param {MouseEvent} event @returns {{y: number, x: number}} */
function under(event) {
  const canvas = $("tile"), grid = layer().grid.length ? layer().grid : [1, 1];
  const at = (/** @type {number} */ share, /** @type {number} */ size) => Math.max(0, Math.min(size - 1, Math.floor(share * size)));
  return { y: at(event.offsetY / canvas.clientHeight, grid[0]), x: at(event.offsetX / canvas.clientWidth, grid[1]) };
}

$("tile").addEventListener("pointermove", (/** @type {MouseEvent} */ event) => {
  const place = under(event);
  outline(place); value(place.y, place.x);
});
$("tile").addEventListener("pointerleave", () => { outline(null); value(state.y, state.x); });
$("tile").addEventListener("click", (/** @type {MouseEvent} */ event) => { if (layer().grid.length) set(under(event)); });

/** @param {string} tag @param {string} text @returns {HTMLElement} */
function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

export async function project() {
  const from = origin();
  for (const button of $("policies").children) button.setAttribute("aria-pressed", String(button.value === state.policy));
  const where = known.models[0].layers[from.layer];
  $("projection-title").textContent = state.pin ? `Projection of unit ${from.unit} of ${where ? where.name : ""} (pinned)` : "Projection";
  if (!state.policy || !where || where.heads) {
    cancel("project"); show($("projection"), null);
    $("projection-note").textContent = where?.heads ? "attention is not projected" : "";
    return;
  }
  try {
    const asked = { policy: state.policy, model: Math.min(state.model, 1), y: from.y, x: from.x };
    const found = await packed(bitmap, `project/${shownPicture()}/${from.layer}/${from.unit}`, asked, "project");
    if (!found) return;
    show($("projection"), found.data);
    $("projection").dataset.shown = `${state.picture}/${from.layer}/${from.unit}/${state.policy}`;
    $("projection-note").textContent = `activation ${digits(found.about.activation)}, largest pixel ±${digits(found.about.largest)}`;
  } catch (error) {
    show($("projection"), null);
    $("projection-note").textContent = /** @type {Error} */ (error).message;
  }
}

export function buttons() {
  const names = ["", ...known.models[0].policies];
  $("policies").replaceChildren(...names.map((name) => {
    const button = /** @type {HTMLButtonElement} */ (element("button", name || "off"));
    button.type = "button"; button.value = name;
    button.addEventListener("click", () => set({ policy: name }));
    return button;
  }));
}

/** Resolves when what has changed is on the screen: what is asked for then does not keep the browser from painting. */
const painted = () => new Promise((done) => { requestAnimationFrame(() => setTimeout(done)); });
let moves = 0;
async function follow() {
  const move = ++moves;
  await painted();
  if (move === moves) project();
}

subscribe((changed) => {
  if (live.on) return;
  const moved = ["picture", "policy", "pin", "model"].some((name) => changed.has(name));
  if (moved || (!state.pin && ["layer", "unit", "y", "x"].some((name) => changed.has(name)))) follow();
});
