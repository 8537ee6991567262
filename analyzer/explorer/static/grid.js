// The units of a layer: a tile for each channel, the cursor on one of them.

import { bitmap, packed } from "./api.js";
import { atlasOf, color, colored, digits, fitted, nearly, range } from "./draw.js";
import { known, layer, query, set, shownPicture, state, subscribe } from "./store.js";

const canvas = /** @type {HTMLCanvasElement} */ (document.getElementById("grid"));
const marks = /** @type {HTMLCanvasElement} */ (document.getElementById("cursor"));
const scale = /** @type {HTMLElement} */ (document.getElementById("scale"));
/** @type {import("./draw.js").Atlas | null} */
let atlas = null;
let shown = "";  // what the atlas is of
/** @type {OffscreenCanvas | null} */
let tiles = null;
/** Called with the atlas, its tiles in colors and the number of a tile, whenever a tile is to be shown large. */
/** @type {((atlas: import("./draw.js").Atlas | null, tiles: OffscreenCanvas | null) => void)[]} */
const followers = [];
/** @param {(atlas: import("./draw.js").Atlas | null, tiles: OffscreenCanvas | null) => void} call  with null where nothing can be shown */
export function whenDrawn(call) { followers.push(call); }

/** Columns, rows and the side of a cell on the canvas, in its pixels. */
export function geometry() {
  const count = atlas ? atlas.count : 1, [h, w] = atlas ? atlas.tile : [1, 1];
  const gap = Math.round(2 * (window.devicePixelRatio || 1));
  let best = { columns: 1, size: 0 };
  for (let columns = 1; columns <= count; columns++) {
    const rows = Math.ceil(count / columns);
    const size = Math.min((canvas.width - gap * (columns + 1)) / columns / w, (canvas.height - gap * (rows + 1)) / rows / h);
    if (size > best.size) best = { columns, size };
  }
  const factor = best.size >= 1 ? Math.floor(best.size * 4) / 4 : best.size;
  return { columns: best.columns, rows: Math.ceil(count / best.columns), width: w * factor, height: h * factor, gap };
}

async function load() {
  const about = layer();
  if (!about) return;
  const key = [state.model, state.picture, state.layer, ...Object.values(source())].join("/");
  const decode = async (/** @type {ArrayBuffer} */ data, /** @type {any} */ said) => atlasOf(await bitmap(data), said);
  patterns = null;
  clearTimeout(timer);
  try {
    const found = await packed(decode, `activations/${shownPicture()}/${state.layer}`, { model: state.model, ...source() }, "grid");
    if (!found) return;
    atlas = found.data;
    shown = key;
    if (state.tiles === "patches" || state.tiles === "optima") await loadPatterns();
    paint();
  } catch (error) {
    atlas = tiles = null;
    fitted(canvas); mark();
    canvas.dataset.shown = key;
    for (const call of followers) call(null, null);
    scale.textContent = /** @type {Error} */ (error).message;
  }
}

/** The numbers of the unit that is asked for last in a view. @type {Map<string, {of: string, grid: number[], numbers: Float32Array}>} */
const read = new Map();

/** @param {number} unit @param {string} view @returns the numbers of its map, null where another is asked for meanwhile */
export async function numbersOf(unit, view) {
  const of = [shownPicture(), state.layer, unit, state.model, ...Object.values(source())].join("/");
  const before = [...read.values()].find((one) => one.of === of);
  if (before) return before;
  const found = await packed((data) => data, `values/${shownPicture()}/${state.layer}/${unit}`, { model: state.model, ...source() }, view);
  if (!found) return null;
  const made = { of, grid: found.about.grid, numbers: new Float32Array(found.data) };
  read.set(view, made);
  return made;
}

/** What the numbers of the tiles are, beside the activations of the picture. @returns {Record<string, string | number>} */
export function source() {
  if (state.tiles === "backward") {
    const policy = state.policy || "gradient";
    return { ...(state.pin ? { origin: state.pin } : { origin: "target", target: state.target }), policy, ...query() };
  }
  return { ...(state.second && state.model < 2 ? { minus: shownPicture(state.second) } : {}), ...query() };
}

/** What the units respond to: a picture for each in one, and where they are in it. @type {{about: any, data: ImageBitmap} | null} */
let patterns = null;
/** @type {number | undefined} */
let timer;
/** @param {Error} error */
const refused = (error) => { scale.textContent = error.message; };

async function loadPatterns() {
  const found = await packed((data) => (data.byteLength ? bitmap(data) : null), `patterns/${state.layer}`, { what: state.tiles }, "patterns");
  clearTimeout(timer);
  if (!found) return;
  if (found.data) patterns = /** @type {any} */ (found);
  else if (["failed", "stopped"].includes(found.about.state)) throw new Error(found.about.error || found.about.state);
  else timer = setTimeout(() => loadPatterns().then(paint).catch(refused), 500);
}

function paint() {
  if (!atlas) return;
  tiles = new OffscreenCanvas(atlas.width, atlas.gray.length / atlas.width);
  /** @type {OffscreenCanvasRenderingContext2D} */ (tiles.getContext("2d")).putImageData(colored(atlas, scaled(), state.gamma), 0, 0);
  const context = fitted(canvas), { columns, width, height, gap } = geometry(), [h, w] = atlas.tile;
  context.imageSmoothingEnabled = false;
  for (let at = 0; at < atlas.count; at++) {
    const x = gap + (at % columns) * (width + gap), y = gap + Math.floor(at / columns) * (height + gap);
    const [from, across, high, wide] = patterns ? [patterns.data, patterns.about.columns, ...patterns.about.tile] : [tiles, atlas.columns, h, w];
    context.drawImage(from, (at % across) * wide, Math.floor(at / across) * high, wide, high, x, y, width, height);
  }
  const [low, high] = range(atlas);
  scale.textContent = [meaning(), scaled() === "unit" ? "each unit's own scale" : `${digits(low)} … ${digits(high)}`].filter(Boolean).join(", ");
  canvas.dataset.shown = shown;
  mark();
  for (const call of followers) call(atlas, tiles);
}

/** @returns {"unit" | "layer"} gradients are shown beside each other: zero everywhere in the middle */
function scaled() { return state.tiles === "backward" ? "layer" : state.scale; }

/** @returns {string} what the tiles are, where it is not activations */
function meaning() {
  if (patterns) return state.tiles === "patches" ? "strongest patches" : `optima (${patterns.about.known.length} known)`;
  if (state.tiles === "patches") return "looking for patches…";
  const { origin, minus } = source();
  if (origin) return `gradient of ${origin === "target" ? "the explained class" : "the pinned unit"}`;
  const { heads, grid, prefix } = layer(), at = query().query;
  const whose = at === undefined ? (prefix ? "the class token" : "all tokens, mean") : `the token at ${Math.floor(at / grid[1])}, ${at % grid[1]}`;
  if (heads) return `attention of ${whose}`;
  return minus ? `minus ${known.pictures.find((one) => one.key === state.second)?.name || "a picture"}` : "";
}

function mark() {
  const context = fitted(marks);
  if (!atlas) return;
  const { columns, width, height, gap } = geometry();
  /** @param {number} at @param {string} stroke */
  const frame = (at, stroke) => {
    context.strokeStyle = stroke;
    context.lineWidth = gap;
    context.strokeRect(gap / 2 + (at % columns) * (width + gap), gap / 2 + Math.floor(at / columns) * (height + gap), width + gap, height + gap);
  };
  for (const at of layer().units || []) {  // of an exported page: those with a card
    context.fillStyle = color("--accent");
    context.beginPath();
    context.arc(gap + (at % columns) * (width + gap) + 2.5 * gap, gap + Math.floor(at / columns) * (height + gap) + 2.5 * gap, 1.5 * gap, 0, 7);
    context.fill();
  }
  const [pinned, unit] = state.pin.split("/").map(Number);
  if (state.pin && pinned === state.layer) frame(unit, color("--mark"));
  canvas.setAttribute("aria-label", `Units of the layer, arrow keys move: unit ${state.unit}, ${digits(atlas.low[state.unit])} to ${digits(atlas.high[state.unit])}`);
  frame(state.unit, state.area === "units" ? color("--accent") : color("--faint"));
}

/** @param {MouseEvent} event @returns {{unit: number, y: number, x: number} | null} the unit and place under the pointer */
function under(event) {
  if (!atlas) return null;
  const ratio = canvas.width / canvas.clientWidth, { columns, width, height, gap } = geometry();
  const at = [event.offsetX * ratio, event.offsetY * ratio];
  const column = Math.floor((at[0] - gap / 2) / (width + gap)), row = Math.floor((at[1] - gap / 2) / (height + gap));
  const unit = row * columns + column, grid = layer().grid;
  if (column < 0 || column >= columns || row < 0 || unit >= atlas.count) return null;
  const inside = [(at[0] - gap - column * (width + gap)) / width, (at[1] - gap - row * (height + gap)) / height];
  const [h, w] = grid.length ? grid : [1, 1];
  const place = (/** @type {number} */ share, /** @type {number} */ size) => Math.max(0, Math.min(size - 1, Math.floor(share * size)));
  return { unit, x: place(inside[0], w), y: place(inside[1], h) };
}

/** @param {{unit: number, y: number, x: number}} place @returns {string} the value there, as far as the tiles show it */
export function about(place) { return atlas ? `≈ ${digits(nearly(atlas, place.unit, place.y, place.x, layer().grid))}` : ""; }

/** The units that answer most strongly at a place, as far as the tiles show it. @param {number} y @param {number} x @returns {[number, number][]} */
export function strongest(y, x) {
  if (!atlas) return [];
  const of = atlas, grid = layer().grid;
  const all = Array.from({ length: of.count }, (_, unit) => /** @type {[number, number]} */ ([unit, nearly(of, unit, y, x, grid)]));
  return all.sort((a, b) => b[1] - a[1]).slice(0, 5);
}

/** Called with what is under the pointer, null where nothing is. @type {(place: {unit: number, y: number, x: number} | null) => void} */
let onHover = () => {};
/** @param {(place: {unit: number, y: number, x: number} | null) => void} call */
export function whenHovered(call) { onHover = call; }

canvas.addEventListener("pointermove", (event) => onHover(under(event)));
canvas.addEventListener("pointerleave", () => onHover(null));
canvas.addEventListener("click", (event) => {
  const place = under(event);
  if (place) set(event.shiftKey ? { ...place, area: "units" } : { unit: place.unit, y: -1, x: -1, area: "units" });
});
new ResizeObserver(() => paint()).observe(canvas);

subscribe((changed) => {
  const moved = ["picture", "layer", "model", "tiles", "second", "query"].some((name) => changed.has(name));
  if (moved || (state.tiles === "backward" && ["pin", "target", "policy"].some((name) => changed.has(name)))) load();
  else if (changed.has("scale") || changed.has("gamma")) paint();
  else if (["unit", "y", "x", "area", "pin"].some((name) => changed.has(name))) {
    mark();
    if (atlas && tiles) for (const call of followers) call(atlas, tiles);
  }
});

export { load };
