// From a picture to the network's input tensor: what analyzer/images/preprocess.py and resample.py do, to the bit.

/**
 * @typedef {{data: Uint8Array | Float32Array, height: number, width: number, channels: number}} Pixels  row by row, channels last
 * @typedef {{size: [number, number], layout: "NCHW" | "NHWC", channels: "RGB" | "BGR" | "GRAY", scale: number, mean: number[],
 *   std: number[], resize: string, crop_fraction: number, interpolation: string, antialias: boolean, pad_value: number,
 *   dtype: string}} How  the fields of `Preprocess`
 * @typedef {{scale: [number, number], offset: [number, number]}} Placement  input = picture · scale + offset; vertical, horizontal
 * @typedef {[(x: number) => number, number]} Filter  weight at a distance, and the distance from which it is 0
 */

const UNIT = 1 << 22;  // weights are whole multiples of 1 / UNIT, as Pillow's

/** @param {number} x */
const triangle = (x) => Math.max(0, 1 - Math.abs(x));
/** @param {number} x */
const box = (x) => Number(x > -0.5 && x <= 0.5);
/** Keys 1981, equation 15. @param {number} a @returns {(x: number) => number} */
const cubic = (a) => (given) => {
  const x = Math.abs(given);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? a * (((x - 5) * x + 8) * x - 4) : 0;
};
/** With antialiasing, and without. @type {Record<string, [Filter, Filter]>} */
const FILTERS = {
  bilinear: [[triangle, 1], [triangle, 1]], bicubic: [[cubic(-0.5), 2], [cubic(-0.75), 2]], area: [[box, 0.5], [box, 0.5]],
};

/**
 * The pixels that one output pixel is a weighted sum of.
 * @param {number} center @param {number} step @param {number} length @param {Filter} filter
 * @returns {{low: number, weights: number[]}} weights in units of 1 / UNIT
 */
function taps(center, step, length, [weigh, support]) {
  const scale = Math.max(step, 1), low = Math.max(0, Math.floor(center - support * scale - 0.5));
  const high = Math.min(length, Math.max(low + 1, Math.ceil(center + support * scale + 0.5)));
  const weights = Array.from({ length: high - low }, (_, i) => weigh((low + i + 0.5 - center) / scale));
  const total = weights.reduce((sum, w) => sum + w, 0);
  return { low, weights: weights.map((w) => Math.trunc((w / total) * UNIT + (w < 0 ? -0.5 : 0.5))) };
}

/**
 * One axis of a picture, brought to other places.
 * @param {Pixels} image @param {0 | 1} axis @param {number} whole  pixels of the whole result along the axis
 * @param {number} start @param {number} count  of those that are computed @param {How} how @returns {Pixels}
 */
function along(image, axis, whole, start, count, how) {
  const { data, height, width, channels } = image, length = axis ? width : height;
  const [stride, across, lines] = axis ? [channels, width * channels, height] : [width * channels, channels, width];
  const [out, outAcross] = axis ? [channels, count * channels] : [width * channels, channels];
  const result = new Uint8Array((axis ? height * count : width * count) * channels);
  const smooth = how.antialias || how.interpolation === "area", step = smooth ? length / whole : 1;
  for (let at = 0; at < count; at++) {
    const nearest = Math.floor(((2 * (start + at) + 1) * length) / (2 * whole));
    const { low, weights } = how.interpolation === "nearest" ? { low: nearest, weights: [UNIT] }
      : taps((start + at + 0.5) * (length / whole), step, length, FILTERS[how.interpolation][how.antialias ? 0 : 1]);
    for (let line = 0; line < lines; line++) {
      for (let c = 0; c < channels; c++) {
        let sum = 0;
        for (let i = 0, from = line * across + low * stride + c; i < weights.length; i++, from += stride) sum += weights[i] * data[from];
        result[line * outAcross + at * out + c] = Math.max(0, Math.min(255, Math.floor(sum / UNIT + 0.5)));
      }
    }
  }
  return axis ? { data: result, height, width: count, channels } : { data: result, height: count, width, channels };
}

/** @param {number} value @returns {number} the nearest whole number, of two the even one */
function even(value) {
  const low = Math.floor(value);
  return value - low === 0.5 ? low + (low & 1) : Math.round(value);
}

/** @type {Record<string, (how: How, image: Pixels) => {whole: [number, number], offset: [number, number]}>} */
const PLACES = {
  resize: (how) => ({ whole: how.size, offset: [0, 0] }),
  crop: (how, { height, width }) => {
    const sides = [height, width], wanted = how.size.map((side) => side / how.crop_fraction);
    const tight = Number(wanted[1] * height > wanted[0] * width);
    const whole = /** @type {[number, number]} */ ([0, 0]);
    whole[tight] = Math.max(how.size[tight], Math.trunc(wanted[tight] + 1e-6));
    whole[1 - tight] = Math.max(how.size[1 - tight], Math.floor((whole[tight] * sides[1 - tight]) / sides[tight]));
    return { whole, offset: [-even((whole[0] - how.size[0]) / 2), -even((whole[1] - how.size[1]) / 2)] };
  },
  letterbox: (how, image) => {
    const whole = inside(image, how.size);
    return { whole, offset: [Math.floor((how.size[0] - whole[0]) / 2), Math.floor((how.size[1] - whole[1]) / 2)] };
  },
  "letterbox-corner": (how, image) => ({ whole: inside(image, how.size), offset: [0, 0] }),
};

/** @param {Pixels} image @param {[number, number]} size @returns {[number, number]} of the whole picture in a frame */
function inside({ height, width }, size) {
  const factor = Math.min(size[0] / height, size[1] / width);
  return [Math.max(1, even(height * factor)), Math.max(1, even(width * factor))];
}

/** @param {How} how @param {Pixels} image @returns {{canvas: Pixels, placement: Placement}} the picture at the input's size */
function placed(how, image) {
  const { whole, offset } = PLACES[how.resize](how, image), { channels } = image;
  const [top, left] = offset.map((start) => Math.max(0, -start));
  const [height, width] = [0, 1].map((axis) => Math.min(whole[axis] + Math.min(offset[axis], 0), how.size[axis]));
  const same = whole[0] === image.height && whole[1] === image.width;
  const narrow = same ? image : along(image, 1, whole[1], left, width, how);
  const part = same ? cut(image, top, left, height, width) : along(narrow, 0, whole[0], top, height, how);
  const placement = { scale: /** @type {[number, number]} */ ([whole[0] / image.height, whole[1] / image.width]), offset };
  if (height === how.size[0] && width === how.size[1]) return { canvas: part, placement };
  const data = new Float32Array(how.size[0] * how.size[1] * channels).fill(how.pad_value);
  for (let y = 0; y < height; y++) {
    data.set(part.data.subarray(y * width * channels, (y + 1) * width * channels), ((y + Math.max(0, offset[0])) * how.size[1] + Math.max(0, offset[1])) * channels);
  }
  return { canvas: { data, height: how.size[0], width: how.size[1], channels }, placement };
}

/** @param {Pixels} image @param {number} top @param {number} left @param {number} height @param {number} width @returns {Pixels} */
function cut({ data, width: across, channels }, top, left, height, width) {
  const result = new Uint8Array(height * width * channels);
  for (let y = 0; y < height; y++) {
    const from = ((top + y) * across + left) * channels;
    result.set(data.subarray(from, from + width * channels), y * width * channels);
  }
  return { data: result, height, width, channels };
}

/** @param {Pixels} rgb @param {string} channels @returns {Pixels} in the order, or the luma, that the network takes */
function channelsOf(rgb, channels) {
  if (channels === "RGB") return rgb;
  const { data, height, width } = rgb, gray = channels === "GRAY", result = new Uint8Array(height * width * (gray ? 1 : 3));
  for (let at = 0; at < height * width; at++) {
    const [r, g, b] = [data[3 * at], data[3 * at + 1], data[3 * at + 2]];
    if (gray) result[at] = (19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16;
    else result.set([b, g, r], 3 * at);
  }
  return { data: result, height, width, channels: gray ? 1 : 3 };
}

/**
 * @param {Pixels} rgb @param {How} how
 * @returns {{values: Float64Array, canvas: Pixels, placement: Placement}} the numbers of the input tensor, the picture as
 *   the network sees it in its channels, and where its pixels came from
 */
export function prepared(rgb, how) {
  const { canvas, placement } = placed(how, channelsOf(rgb, how.channels)), { data, channels } = canvas;
  const count = data.length / channels, values = new Float64Array(data.length);
  for (let c = 0; c < channels; c++) {
    const mean = how.mean[c % how.mean.length], std = how.std[c % how.std.length];
    for (let at = 0; at < count; at++) {
      values[how.layout === "NCHW" ? c * count + at : at * channels + c] = (data[at * channels + c] * how.scale - mean) / std;
    }
  }
  return { values, canvas, placement };
}

/** @type {Record<string, any>} */
const ARRAYS = {
  float32: Float32Array, float64: Float64Array, float16: /** @type {any} */ (globalThis).Float16Array, uint8: Uint8Array,
  int8: Int8Array, uint16: Uint16Array, int16: Int16Array, int32: Int32Array,
};

/**
 * @param {Float64Array} values @param {string} dtype @param {number} batch  how often they are repeated
 * @returns {any} a typed array; whole numbers are rounded and saturated
 */
export function typed(values, dtype, batch) {
  const Kind = ARRAYS[dtype];
  if (!Kind) throw new Error(`this browser has no ${dtype}`);
  const result = new Kind(values.length * batch), bits = 8 * Kind.BYTES_PER_ELEMENT, whole = dtype.includes("int");
  const [low, high] = dtype.startsWith("u") ? [0, 2 ** bits - 1] : [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1];
  const given = whole ? values.map((v) => Math.max(low, Math.min(high, even(v)))) : values;
  for (let at = 0; at < batch; at++) result.set(given, at * values.length);
  return result;
}
