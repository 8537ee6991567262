// The state of the page: views are told what changed, and the URL follows.

import { DEFAULTS, fragment, stateOf } from "./url.js";

/** @typedef {import("./url.js").State} State */
/** @type {State} */
export let state = stateOf(location.hash);
/** What the server said once: models, pictures. @type {{models: any[], pictures: {key: string, name: string}[]}} */
export const known = { models: [], pictures: [] };
/** @type {((changed: Set<string>) => void)[]} */
const listeners = [];

/** @param {(changed: Set<string>) => void} listener called with the names of what changed */
export function subscribe(listener) { listeners.push(listener); }

let started = false;
/** From now on views are told. */
export function start() { started = true; }

/** @param {Partial<State>} changes */
export function set(changes) {
  const changed = new Set(Object.keys(changes).filter((name) => state[/** @type {keyof State} */ (name)] !== changes[/** @type {keyof State} */ (name)]));
  if (!changed.size) return;
  state = { ...state, ...changes };
  if (!started) return;
  history.replaceState(null, "", `${location.pathname}#${fragment(state)}`);
  for (const listener of listeners) listener(changed);
}

window.addEventListener("hashchange", () => set({ ...DEFAULTS, ...stateOf(location.hash) }));

/** @returns {any[]} the layers of the reference, by which those of the candidate are counted */
export function layers() { return known.models[0].layers; }
/** @returns {any} the layer that is shown */
export function layer() { return layers()[state.layer]; }
