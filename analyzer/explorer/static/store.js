// The state of the page: views are told what changed, and the URL follows.

import { fragment, stateOf } from "./url.js";

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

/** The state of a fragment, with a layer and a picture that there are. @param {State} said @returns {State} */
export function possible(said) {
  const { layers, first } = known.models[0], count = layers.length;
  const layer = said.layer >= 0 && said.layer < count ? said.layer : first;
  const picture = known.pictures.some((one) => one.key === said.picture) ? said.picture : known.pictures[0].key;
  const most = layers[layer].channels - 1, unit = Math.max(0, Math.min(said.unit, most));
  return { ...said, layer, picture, unit: location.hash ? unit : layers[layer].units?.[0] ?? unit };
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
