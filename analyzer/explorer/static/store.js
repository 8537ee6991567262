// The state of the page: views are told what changed, and the URL follows.

import { DEFAULTS, fragment, stateOf } from "./url.js";

/** @typedef {import("./url.js").State} State */
/** @type {State} */
export let state = stateOf(location.hash);
/**
 * What the server said once: models, pictures, and how the models were opened.
 * @type {{models: any[], pictures: {key: string, name: string, path: string}[], settings: {words: string[], keywords: Record<string, any>}}}
 */
export const known = { models: [], pictures: [], settings: { words: [], keywords: {} } };
/** @type {((changed: Set<string>) => void)[]} */
const listeners = [];

/** @param {(changed: Set<string>) => void} listener called with the names of what changed */
export function subscribe(listener) { listeners.push(listener); }

/** Whether pictures are those of a webcam, which are shown with their units and predictions alone. */
export const live = { on: false };

let started = false;
/** From now on views are told. */
export function start() { started = true; }

/** @param {Partial<State>} changes */
export function set(changes) {
  const changed = new Set(Object.keys(changes).filter((name) => state[/** @type {keyof State} */ (name)] !== changes[/** @type {keyof State} */ (name)]));
  if (!changed.size) return;
  state = { ...state, ...changes };
  if (changed.has("fit")) changed.add("picture");
  if (!started) return;
  pending = true;
  clearTimeout(timer);
  timer = setTimeout(follow, REST);
  for (const listener of listeners) listener(changed);
}

// The URL follows once all is answered, or after a rest. It costs a browser as much as painting does, and browsers allow
// some 200 changes in half a minute.
const REST = 200;  // milliseconds between two changes
/** @type {number | undefined} */
let timer;
let pending = false, last = 0;
function follow() {
  clearTimeout(timer);
  pending = false; last = performance.now();
  history.replaceState(null, "", `#${fragment(state)}`);
}

/** All is answered. */
export function settled() { if (pending && performance.now() - last > REST) follow(); }

/** Draws again what depends on a part of the state. @param {string} name */
export function refresh(name) { for (const listener of listeners) listener(new Set([name])); }

/** @returns {string} of the models */
export function hash() { return known.models.map((one) => one.sha256.slice(0, 12)).join("."); }

/** The state of a fragment, as far as these models and pictures have it. @param {State} given @returns {State} */
export function possible(given) {
  const said = given.sha && given.sha !== hash() ? DEFAULTS : given;
  const { layers, first, methods, policies } = known.models[0], count = layers.length;
  const layer = said.layer >= 0 && said.layer < count ? said.layer : first, { channels, grid } = layers[layer];
  const there = (/** @type {string} */ key) => known.pictures.some((one) => one.key === key);
  const unit = Math.max(0, Math.min(said.unit, channels - 1)), [h, w] = grid.length ? grid : [0, 0];
  const placed = said.y >= 0 && said.y < h && said.x >= 0 && said.x < w;
  const [at, of, ...place] = said.pin.split("/").map(Number);
  const pinned = said.pin && place.length === 2 && place.every(Number.isInteger) && of >= 0 && of < layers[at]?.channels;
  return {
    ...said, sha: hash(), layer, picture: there(said.picture) ? said.picture : known.pictures[0].key,
    unit: location.hash ? unit : layers[layer].units?.[0] ?? unit, y: placed ? said.y : -1, x: placed ? said.x : -1,
    second: there(said.second) ? said.second : "", pin: pinned ? said.pin : "", at: said.at < count ? Math.max(-1, said.at) : -1,
    method: methods.includes(said.method) ? said.method : "", policy: policies.includes(said.policy) ? said.policy : said.policy && DEFAULTS.policy,
    model: known.models.length > 1 ? Math.max(0, Math.min(2, said.model)) : 0, zoom: Math.max(0, Math.min(2, said.zoom)),
  };
}

window.addEventListener("hashchange", () => { if (started) set(possible(stateOf(location.hash))); });

/** @param {string} [key] @returns {string} the picture, brought to the input's size as is chosen */
export function shownPicture(key = state.picture) { return key + (state.fit ? `~${state.fit}` : ""); }

/** The token whose attention is shown, as it is asked for; nothing for the class token. @returns {Record<string, number>} */
export function query() {
  const { heads, grid } = layer();
  return heads && state.query >= 0 && state.query < grid[0] * grid[1] ? { query: state.query } : {};
}

/** @returns {any[]} the layers of the reference, by which those of the candidate are counted */
export function layers() { return known.models[0].layers; }
/** @returns {any} the layer that is shown */
export function layer() { return layers()[state.layer]; }
