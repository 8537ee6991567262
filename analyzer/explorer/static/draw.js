// Colors and canvases.

// Viridis and a blue–white–red map in a few colors, between which the others lie.
const SEQUENTIAL = ["440154", "472c7a", "3b528b", "2c718e", "21908d", "27ad81", "5cc863", "aadc32", "fde725"];
const DIVERGING = ["2166ac", "67a9cf", "d1e5f0", "f7f7f7", "fddbc7", "ef8a62", "b2182b"];

/** @param {string[]} colors @returns {Uint32Array} 256 pixels as canvases hold them */
function table(colors) {
  const parts = colors.map((c) => [0, 2, 4].map((at) => parseInt(c.slice(at, at + 2), 16)));
  return Uint32Array.from({ length: 256 }, (_, i) => {
    const at = (i / 255) * (parts.length - 1), left = Math.min(Math.floor(at), parts.length - 2), share = at - left;
    const [r, g, b] = parts[left].map((v, k) => Math.round(v + (parts[left + 1][k] - v) * share));
    return (255 << 24) | (b << 16) | (g << 8) | r;
  });
}

export const VIRIDIS = table(SEQUENTIAL), SIGNED = table(DIVERGING);

/**
 * @typedef {Object} Atlas
 * @property {number} columns @property {[number, number]} tile @property {number} count
 * @property {number[]} low @property {number[]} high @property {Uint8Array} gray @property {number} width
 */

/** @param {ImageBitmap} picture @param {any} about its geometry and extremes @returns {Atlas} */
export function atlasOf(picture, about) {
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
  context.drawImage(picture, 0, 0);
  const rgba = new Uint32Array(context.getImageData(0, 0, picture.width, picture.height).data.buffer);
  const gray = new Uint8Array(rgba.length);
  for (let i = 0; i < rgba.length; i++) gray[i] = rgba[i] & 255;
  return { ...about, gray, width: picture.width };
}

/**
 * @param {Atlas} atlas @param {number} unit @param {number} y @param {number} x  of the layer's grid
 * @param {number[]} grid @returns {number} the value there, to a 255th of the unit's range
 */
export function nearly(atlas, unit, y, x, grid) {
  const [h, w] = atlas.tile, [high, wide] = grid.length ? grid : [1, 1];
  const row = Math.floor(unit / atlas.columns) * h + Math.min(h - 1, Math.floor(y * h / high));
  const column = (unit % atlas.columns) * w + Math.min(w - 1, Math.floor(x * w / wide));
  return atlas.low[unit] + (atlas.high[unit] - atlas.low[unit]) * atlas.gray[row * atlas.width + column] / 255;
}

/** @param {Atlas} atlas @returns {[number, number]} lowest and highest value of the layer */
export function range(atlas) {
  return [Math.min(...atlas.low), Math.max(...atlas.high)];
}

/**
 * The atlas in colors. Layers with values below zero have zero in the middle.
 * @param {Atlas} atlas @param {"unit"|"layer"} scale @param {number} gamma @returns {ImageData}
 */
export function colored(atlas, scale, gamma) {
  const [h, w] = atlas.tile, pixels = new Uint32Array(atlas.gray.length), [lowest, highest] = range(atlas);
  const rows = atlas.gray.length / atlas.width / h;
  const signed = lowest < 0 && highest > 0;
  const lut = new Uint32Array(256);
  for (let tile = 0; tile < rows * atlas.columns; tile++) {
    if (tile >= atlas.count) continue;
    const low = atlas.low[tile], high = atlas.high[tile];
    const most = scale === "unit" ? Math.max(Math.abs(low), Math.abs(high)) : Math.max(Math.abs(lowest), Math.abs(highest));
    const [from, to] = scale === "unit" ? [low, high] : [lowest, highest];
    for (let g = 0; g < 256; g++) {
      const value = low + (high - low) * (g / 255);
      if (signed) {
        const t = most ? value / most : 0;
        lut[g] = SIGNED[Math.round(127.5 + 127.5 * Math.sign(t) * Math.abs(t) ** gamma)];
      } else {
        const t = to > from ? Math.max(0, (value - from) / (to - from)) : 0;
        lut[g] = VIRIDIS[Math.round(255 * t ** gamma)];
      }
    }
    const top = Math.floor(tile / atlas.columns) * h, left = (tile % atlas.columns) * w;
    for (let y = top; y < top + h; y++) {
      for (let at = y * atlas.width + left, end = at + w; at < end; at++) pixels[at] = lut[atlas.gray[at]];
    }
  }
  return new ImageData(new Uint8ClampedArray(pixels.buffer), atlas.width);
}

/** A canvas of its size on the screen, or as it was where it is hidden. @param {HTMLCanvasElement} canvas @returns {CanvasRenderingContext2D} */
export function fitted(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.max(1, Math.round(canvas.clientWidth * ratio)), height = Math.max(1, Math.round(canvas.clientHeight * ratio));
  if (canvas.clientWidth && (canvas.width !== width || canvas.height !== height)) { canvas.width = width; canvas.height = height; }
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.clearRect(0, 0, width, height);
  return context;
}

/** Its pixels, and for the style sheet its shape: tall ones are narrower. @param {HTMLCanvasElement} canvas @param {number} width @param {number} height */
export function sized(canvas, width, height) {
  canvas.width = width; canvas.height = height;
  const shape = String(width / height), style = canvas.parentElement?.style;
  if (style && style.getPropertyValue("--shape") !== shape) style.setProperty("--shape", shape);
}

/** @param {HTMLCanvasElement} canvas @param {ImageBitmap | null} picture */
export function show(canvas, picture) {
  canvas.hidden = !picture;
  if (!picture) { canvas.width = canvas.height = 1; return; }
  sized(canvas, picture.width, picture.height);
  /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d")).drawImage(picture, 0, 0);
}

/** @param {string} name of a custom property @returns {string} */
export function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** @param {number} value @returns {string} four digits */
export function digits(value) {
  const size = Math.abs(value), short = Number(value.toPrecision(4));
  return Number.isFinite(value) && size && (size >= 1e6 || size < 1e-4) ? short.toExponential() : String(short);
}
