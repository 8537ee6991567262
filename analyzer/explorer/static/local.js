// Pictures that are dropped on an exported page which has the model: onnxruntime-web runs it here, and its answers are
// those that the server would give.

import { prepared, typed } from "./prepare.js";
import { answer as known } from "./source.js";

const SHOWN = 12;  // predictions
const SIDES = [448, 768];  // of a picture that is drawn: its longer side in pixels, at least and at most
const TILE = 96, TILES = 4096, PIXELS = 1 << 22, ALPHA = 0.6, UNSEEN = 0.65, PALE = [214, 217, 220];
const ABSENT = "for dropped pictures this takes `onnx-analyzer explore`";

/** As embedding.py wrote it. */
const about = JSON.parse(document.getElementById("model-about")?.textContent || "{}");

/** @typedef {import("./prepare.js").Pixels} Pixels */
/** @typedef {{scores: Float32Array, chosen: number, maps: Record<string, any>, prepared: ReturnType<typeof prepared>}} Run */
/** @typedef {{blob: Blob, bitmap: ImageBitmap, pixels: Pixels}} Picture */
/** @type {Map<string, Picture>} */
const pictures = new Map();
/** Of a picture and a target; the last ones. @type {Map<string, Promise<Run>>} */
const runs = new Map();
/** onnxruntime-web and the session, once a picture was dropped. @type {Promise<{ort: any, session: any}> | null} */
let model = null;

/** Bytes that are in the page, compressed, or in a file beside it. @param {string} id @returns {Promise<ArrayBuffer>} */
async function bytes(id) {
  const element = /** @type {HTMLElement} */ (document.getElementById(id));
  if (element instanceof HTMLLinkElement) return (await fetch(element.href)).arrayBuffer();
  const packed = Uint8Array.from(atob(element.textContent || ""), (c) => c.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

async function opened() {
  const ort = await import(about.runtime);
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = await bytes("wasm");
  return { ort, session: await ort.InferenceSession.create(new Uint8Array(await bytes("model-file"))) };
}

/** @param {Blob} blob @param {string} name @returns {Promise<{key: string, name: string, path: string}>} */
export async function add(blob, name) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" })
    .catch(() => { throw new Error(`${name} is no picture that this browser knows`); });
  const { width, height } = bitmap, { data } = onWhite(bitmap, width, height), rgb = new Uint8Array(data.length / 4 * 3);
  for (let at = 0; at < data.length / 4; at++) rgb.set(data.subarray(4 * at, 4 * at + 3), 3 * at);
  const key = `d${pictures.size}`;
  pictures.set(key, { blob, bitmap, pixels: { data: rgb, height, width, channels: 3 } });
  return { key, name, path: "" };
}

/** @param {ImageBitmap} bitmap @param {number} width @param {number} height @returns {ImageData} at that size */
function onWhite(bitmap, width, height) {
  const context = canvas(width, height);
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

/** @param {number} width @param {number} height @returns {OffscreenCanvasRenderingContext2D} */
function canvas(width, height) {
  return /** @type {OffscreenCanvasRenderingContext2D} */ (new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true }));
}

/** What the model gives for a picture and a class; -1: the first. @param {string} key @param {number} target @returns {Promise<Run>} */
export function run(key, target = -1) {
  const name = `${key}/${target}`, before = runs.get(name);
  if (before) return before;
  const made = ran(key, target);
  runs.set(name, made);
  while (runs.size > 8) runs.delete(runs.keys().next().value || "");
  return made;
}

/** @param {string} given  key, or key~fit @param {number} target @returns {Promise<Run>} */
async function ran(given, target) {
  const [key, fit] = given.split("~"), picture = pictures.get(key);
  if (!picture) throw new Error("the picture is gone");
  const { ort, session } = await (model ||= opened());
  const made = prepared(picture.pixels, { ...about.how, ...(fit ? { resize: fit } : {}) }), [batch] = about.shape;
  const feeds = {
    [about.input]: new ort.Tensor(about.how.dtype, typed(made.values, about.how.dtype, batch), about.shape),
    [about.target]: new ort.Tensor("int64", new BigInt64Array(batch).fill(BigInt(target)), [batch]),
  };
  const found = await session.run(feeds), scores = found[about.scores];
  return { scores: scores.data.slice(0, scores.dims[1]), chosen: Number(found[about.class].data[0]), maps: found, prepared: made };
}

/**
 * A method's map over the input, in the numbers of the method.
 * @param {string} key @param {string} target @param {string} method
 * @returns {Promise<{run: Run, values: Float32Array, low: number, high: number}>}
 */
export async function map(key, target, method) {
  const found = await run(key, target === "top1" ? -1 : Number(target)), names = about.methods[method];
  const [low, high] = found.maps[names.extent].data, [height, width] = about.how.size;
  const values = Float32Array.from(found.maps[names.heatmap].data.subarray(0, height * width), (v) => low + v * (high - low));
  return { run: found, values, low, high };
}

// ---- Answers ----

/**
 * @param {string} path @param {Record<string, string | number>} query
 * @returns {Promise<Response | null>} null where the question is not of a dropped picture
 */
export async function answer(path, query) {
  const [kind, key, number] = path.split("/");
  if (!key || !pictures.has(key.split("~")[0])) return null;
  const made = ANSWERS[kind];
  try {
    return made ? await made(key, query, Number(number)) : missing(ABSENT);
  } catch (error) {
    return missing(/** @type {Error} */ (error).message);
  }
}

/** @param {string} hint */
const missing = (hint) => Response.json({ error: "not in this page", hint }, { status: 404 });

/** @type {Record<string, (key: string, query: Record<string, any>, number: number) => Promise<Response>>} */
const ANSWERS = {
  picture: async (key, query) => (query.seen ? png(seen((await run(key)).prepared.canvas)) : new Response(pictures.get(key)?.blob)),
  predictions: async (key) => Response.json({ predictions: predictions((await run(key)).scores) }),
  explain: async (key, query) => {
    const names = about.methods[query.method];
    if (!names || !(query.target === "top1" || /^\d+$/.test(query.target))) return missing(ABSENT);
    const { run: found, values, low, high } = await map(key, query.target, query.method);
    const title = `${label(found.chosen)} (${Number(found.scores[found.chosen].toPrecision(3))})`;
    const { bitmap } = /** @type {Picture} */ (pictures.get(key.split("~")[0]));
    return packed({ low, high, title, diagnosis: "", layer: names.layer }, await blob(overlay(bitmap, values, found.prepared.placement)));
  },
  activations: async (key, query, layer) => {
    const { data, dims } = (await run(key)).maps[about.maps[layer]], { pixels, ...said } = atlas(data, dims);
    return packed(said, await blob(pixels));
  },
  spans: (key, query, layer) => known(`spans/${about.first}/${layer}`, { model: 0 }),
};

/** @param {number} index */
const label = (index) => about.labels[index] ?? String(index);

/** @param {Float32Array} scores */
function predictions(scores) {
  const order = Array.from(scores, (_, at) => at).sort((a, b) => scores[b] - scores[a]).slice(0, SHOWN);
  return order.map((index) => ({ target: String(index), label: label(index), score: scores[index], index, box: null, seen: null, points: [] }));
}

/** Four bytes of length, that much JSON, then the data. @param {any} said @param {Blob} data */
function packed(said, data) {
  const head = new TextEncoder().encode(JSON.stringify(said)), length = new DataView(new ArrayBuffer(4));
  length.setUint32(0, head.length, true);
  return new Response(new Blob([length, head, data]));
}

/** @param {ImageData} pixels @returns {Promise<Blob>} */
function blob(pixels) {
  const context = canvas(pixels.width, pixels.height);
  context.putImageData(pixels, 0, 0);
  return context.canvas.convertToBlob({ type: "image/png" });
}

/** @param {ImageData} pixels */
const png = async (pixels) => new Response(await blob(pixels));

/** @param {Pixels} picture  in the network's channels @returns {ImageData} */
function seen({ data, height, width, channels }) {
  const rgba = new Uint8ClampedArray(4 * height * width).fill(255), order = about.how.channels === "BGR" ? [2, 1, 0] : [0, 1, 2];
  for (let at = 0; at < height * width; at++) {
    for (let c = 0; c < 3; c++) rgba[4 * at + c] = data[at * channels + (channels === 1 ? 0 : order[c])];
  }
  return new ImageData(rgba, width);
}

/**
 * The picture, its colors subdued, with a map over it, the more opaque the higher: `overlay` of analyzer/images/views.py.
 * @param {ImageBitmap} bitmap @param {Float32Array} values @param {import("./prepare.js").Placement} placement @returns {ImageData}
 */
function overlay(bitmap, values, { scale, offset }) {
  const long = Math.max(bitmap.height, bitmap.width), factor = Math.max(SIDES[0], Math.min(SIDES[1], long)) / long;
  const [height, width] = [bitmap.height, bitmap.width].map((side) => Math.max(1, Math.round(side * factor)));
  const drawn = onWhite(bitmap, width, height), { data } = drawn, [rows, columns] = about.how.size;
  const turbo = Uint8Array.from(atob(about.colors), (c) => c.charCodeAt(0)), high = values.reduce((a, b) => Math.max(a, b), 0);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const at = 4 * (y * width + x), gray = 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
      const row = (y + 0.5) * bitmap.height / height * scale[0] + offset[0], column = (x + 0.5) * bitmap.width / width * scale[1] + offset[1];
      const within = row >= 0 && row < rows && column >= 0 && column < columns;
      const unit = within && high > 0 ? Math.max(0, sampled(values, row, column) / high) : 0;
      const opacity = ALPHA * Math.sqrt(unit), color = 3 * Math.min(255, Math.round(255 * unit));
      for (let c = 0; c < 3; c++) {
        const below = within ? 0.6 * gray + 0.4 * data[at + c] : (1 - UNSEEN) * gray + UNSEEN * PALE[c];
        data[at + c] = below + opacity * (turbo[color + c] - below);
      }
    }
  }
  return drawn;
}

/** Bilinear; pixel i of the map spans [i, i + 1). @param {Float32Array} values @param {number} row @param {number} column */
function sampled(values, row, column) {
  const [rows, columns] = about.how.size;
  const y = Math.max(0, Math.min(rows - 1, row - 0.5)), x = Math.max(0, Math.min(columns - 1, column - 0.5));
  const top = Math.min(Math.floor(y), Math.max(rows - 2, 0)), left = Math.min(Math.floor(x), Math.max(columns - 2, 0)), at = top * columns + left;
  const [down, right] = [rows > 1 ? columns : 0, columns > 1 ? 1 : 0], [dy, dx] = [y - top, x - left];
  return (1 - dy) * ((1 - dx) * values[at] + dx * values[at + right]) + dy * ((1 - dx) * values[at + down] + dx * values[at + down + right]);
}

/**
 * As atlas.py makes it.
 * @param {Float32Array} maps  (channels, h, w) @param {number[]} dims
 */
function atlas(maps, [channels, h, w]) {
  const count = Math.min(channels, Math.max(TILES, Math.floor(PIXELS / (h * w)))), step = Math.ceil(Math.max(h, w) / TILE);
  const height = Math.ceil(h / step), width = Math.ceil(w / step), columns = Math.max(1, Math.ceil(Math.sqrt(count * height / width)));
  const rows = Math.ceil(count / columns), across = columns * width, rgba = new Uint8ClampedArray(4 * rows * height * across);
  /** @type {number[]} */
  const low = [], high = [];
  for (let unit = 0; unit < count; unit++) {
    const map = maps.subarray(unit * h * w, (unit + 1) * h * w), finite = map.filter(Number.isFinite);
    low.push(finite.length ? finite.reduce((a, b) => Math.min(a, b)) : 0);
    high.push(finite.length ? finite.reduce((a, b) => Math.max(a, b)) : 0);
    const span = high[unit] - low[unit] || 1, top = Math.floor(unit / columns) * height, left = (unit % columns) * width;
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const gray = Math.round((furthest(map, y * step, x * step, step, h, w, low[unit]) - low[unit]) / span * 255);
        rgba.fill(gray, 4 * ((top + y) * across + left + x), 4 * ((top + y) * across + left + x) + 3);
      }
    }
  }
  for (let at = 3; at < rgba.length; at += 4) rgba[at] = 255;
  return { columns, tile: [height, width], count, low, high, pixels: new ImageData(rgba, across) };
}

/**
 * The value of a block that is furthest from zero.
 * @param {Float32Array} map @param {number} top @param {number} left @param {number} step @param {number} h @param {number} w
 * @param {number} lowest  for what is not finite
 */
function furthest(map, top, left, step, h, w, lowest) {
  let best = NaN;
  for (let y = top; y < Math.min(h, top + step); y++) {
    for (let x = left; x < Math.min(w, left + step); x++) {
      const value = Number.isFinite(map[y * w + x]) ? map[y * w + x] : lowest;
      if (!(Math.abs(value) <= Math.abs(best))) best = value;
    }
  }
  return best;
}
