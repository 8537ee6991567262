// The state of the page and its URL: each is a pure function of the other.

/**
 * @typedef {Object} State
 * @property {string} sha  of the models: a link is of these alone
 * @property {string} picture  key of the picture
 * @property {number} layer  number of the layer
 * @property {number} unit  channel of the layer
 * @property {number} y  place of the unit; -1: where it is strongest
 * @property {number} x
 * @property {"layers"|"units"} area  where the arrow keys move
 * @property {number} model  0: reference, 1: candidate, 2: their difference
 * @property {string} evidence  "method", "projection" or ""
 * @property {string} method  of the evidence; "": the default
 * @property {string} options  of the method, "name=value name=value"
 * @property {string} target  what is explained: a prediction, a class, or an expression
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
  sha: "", picture: "0", layer: -1, unit: 0, y: -1, x: -1, area: "layers", model: 0, evidence: "method", method: "", options: "",
  target: "top1", card: true, at: -1, policy: "deconvnet", pin: "", scale: "unit", gamma: 1, zoom: 0, labels: true,
  tiles: "activations", fit: "", second: "", rank: "activation", query: -1,
};

/** What there is to choose from. @type {Record<string, string[]>} */
const CHOICES = {
  area: ["layers", "units"], scale: ["unit", "layer"], tiles: ["activations", "backward", "patches", "optima"],
  fit: ["", "resize", "crop", "letterbox"], rank: ["activation", "target", "selectivity"],
};

/** @param {State} state @returns {string} the fragment, without "#" */
export function fragment(state) {
  const said = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (value !== DEFAULTS[/** @type {keyof State} */ (name)]) said.set(name, String(value));
  }
  return said.toString();
}

/** @param {string} text a fragment @returns {State} what it says, as far as it can be */
export function stateOf(text) {
  const found = /** @type {Record<string, string | number | boolean>} */ ({ ...DEFAULTS });
  for (const [name, value] of new URLSearchParams(text.replace(/^#/, ""))) {
    if (!(name in DEFAULTS)) continue;
    const kind = typeof found[name];
    const right = kind === "number" ? (name === "gamma" ? Number(value) > 0 && Number(value) < Infinity : Number.isInteger(Number(value)))
      : !(name in CHOICES) || CHOICES[name].includes(value);
    if (right) found[name] = kind === "number" ? Number(value) : kind === "boolean" ? value === "true" : value;
  }
  return /** @type {State} */ (/** @type {unknown} */ (found));
}

/** @param {string} text  "name=value name=value" @returns {Record<string, string | number | boolean>} as `explain -O` reads them */
export function optionsOf(text) {
  return Object.fromEntries(text.split(/\s+/).filter(Boolean).map((word) => {
    const [name, ...rest] = word.split("="), value = rest.join("="), number = Number(value);
    return [name.replaceAll("-", "_"), /^(true|false)$/i.test(value) ? value.toLowerCase() === "true" : value && Number.isFinite(number) ? number : value];
  }));
}
