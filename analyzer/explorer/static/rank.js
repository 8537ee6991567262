// The units of the layer in order: of activation, or of what they say for the explained class.

import { json } from "./api.js";
import { digits } from "./draw.js";
import { whenDrawn } from "./grid.js";
import { progress } from "./jobs.js";
import { roving } from "./roving.js";
import { exported } from "./source.js";
import { live, query, set, shownPicture, state, subscribe } from "./store.js";

const SHOWN = 24;
/** @type {number | undefined} */
let timer;
const list = /** @type {HTMLElement} */ (document.getElementById("ranked"));
roving(list);
const working = document.createElement("li");
working.className = "note job";
const choice = /** @type {HTMLSelectElement} */ (document.getElementById("rank"));

export async function load() {
  if (exported || live.on) return;
  choice.value = state.rank;
  /** @type {Record<string, string>} */
  const asked = state.rank === "activation" ? {} : { by: state.rank, target: state.target };
  clearTimeout(timer);
  try {
    const found = await json(`ranking/${shownPicture()}/${state.layer}`, { model: state.rank === "activation" ? state.model : Math.min(state.model, 1), ...query(), ...asked }, "ranking");
    if (!found) return;
    if (found.note) list.textContent = found.note;
    else if (!found.job) list.replaceChildren(...found.channels.slice(0, SHOWN).map(item));
    else {
      if (list.firstElementChild !== working) list.replaceChildren(working);
      progress(working, found.job, load);
      if (["waiting", "running"].includes(found.job.state)) timer = setTimeout(load, 500);
    }
  } catch (error) {
    list.textContent = /** @type {Error} */ (error).message;
  }
}

/** @param {[number, number]} one @returns {HTMLElement} */
function item([unit, value]) {
  const made = document.createElement("li"), button = document.createElement("button"), said = document.createElement("span");
  button.type = "button"; button.title = `unit ${unit}: ${value}`;
  said.textContent = ` ${digits(value)}`;
  button.append(String(unit), said);
  button.addEventListener("click", () => set({ unit, y: -1, x: -1, area: "units" }));
  made.append(button);
  return made;
}

if (exported) {
  choice.disabled = true;
  whenDrawn((atlas) => {
    const all = (atlas?.high || []).map((value, unit) => /** @type {[number, number]} */ ([unit, value])).sort((a, b) => b[1] - a[1]);
    list.replaceChildren(...all.slice(0, SHOWN).map(item));
  });
}
choice.addEventListener("change", () => set({ rank: /** @type {"activation" | "target"} */ (choice.value) }));
subscribe((changed) => {
  const moved = ["picture", "layer", "model", "rank", "query"].some((name) => changed.has(name));
  if (moved || (state.rank !== "activation" && changed.has("target"))) load();
});
