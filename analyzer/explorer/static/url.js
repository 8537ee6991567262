// The state of the page and its URL: each is a pure function of the other.

/**
 * @typedef {Object} State
 * @property {string} picture  key of the picture
 * @property {number} layer  number of the layer
 * @property {number} unit  channel of the layer
 * @property {number} y  place of the unit; -1: where it is strongest
 * @property {number} x
 * @property {"layers"|"units"} area  where the arrow keys move
 * @property {number} model  0: reference, 1: candidate, 2: their difference
 * @property {string} evidence  "method", "projection" or ""
 * @property {string} method  of the evidence; "": the default
 * @property {string} target  what is explained
 * @property {number} at  layer that the evidence is taken at; -1: the default
 * @property {string} policy  of projections; "" for none
 * @property {string} pin  "layer/unit/y/x" of the pinned unit; "" for none
 * @property {"unit"|"layer"} scale  of the gray levels
 * @property {number} gamma
 * @property {number} zoom  0: all units, 1: the unit, 2: its projection
 * @property {"activations"|"backward"|"patches"|"optima"} tiles  what the units show
 * @property {string} fit  how pictures are brought to the input's size; "": as the model's card says
 * @property {string} second  key of a picture whose units are taken off; "" for none
 * @property {"activation"|"target"|"selectivity"} rank  how units are listed
 * @property {number} query  place of the grid whose attention is shown; -1: the class token
 * @property {boolean} card  whether the unit card is shown
 * @property {boolean} labels  whether predictions are shown
 */

/** @type {State} */
export const DEFAULTS = {
  picture: "0", layer: -1, unit: 0, y: -1, x: -1, area: "layers", model: 0, evidence: "method", method: "",
  target: "top1", card: true, at: -1, policy: "deconvnet", pin: "", scale: "unit", gamma: 1, zoom: 0, labels: true,
  tiles: "activations", fit: "", second: "", rank: "activation", query: -1,
};

/** @param {State} state @returns {string} the fragment, without "#" */
export function fragment(state) {
  const said = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (value !== DEFAULTS[/** @type {keyof State} */ (name)]) said.set(name, String(value));
  }
  return said.toString();
}

/** @param {string} text a fragment @returns {State} */
export function stateOf(text) {
  const found = /** @type {Record<string, string | number | boolean>} */ ({ ...DEFAULTS });
  for (const [name, value] of new URLSearchParams(text.replace(/^#/, ""))) {
    if (!(name in DEFAULTS)) continue;
    const kind = typeof found[name];
    if (kind === "number") found[name] = Number.isFinite(Number(value)) ? Number(value) : found[name];
    else found[name] = kind === "boolean" ? value === "true" : value;
  }
  return /** @type {State} */ (/** @type {unknown} */ (found));
}
