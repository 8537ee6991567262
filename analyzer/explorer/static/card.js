// The unit card: its nine strongest patches, their projections, and its synthesized optimum.

import { image, json } from "./api.js";
import { digits, show } from "./draw.js";
import { progress } from "./jobs.js";
import { exported } from "./source.js";
import { known, layer, set, state, subscribe } from "./store.js";

/** @param {string} id @returns {any} */
const $ = (id) => document.getElementById(id);
const PAUSE = 250;  // milliseconds that the cursor rests before its card is asked for
/** @type {number | undefined} */
let timer;
let shown = "", dreamt = "";

/** @param {number} [wait] milliseconds @param {boolean} [start] whether the optimum is to be worked out */
export function ask(wait = PAUSE, start = false) {
  clearTimeout(timer);
  $("card").hidden = !state.card;
  if (state.card) timer = setTimeout(() => load(start), wait);
}

/** @param {boolean} start */
async function load(start) {
  const unit = `${state.layer}/${state.unit}`;
  try {
    const found = await json(`unit/${unit}`, { start: Number(start) }, "card");
    if (!found || unit !== `${state.layer}/${state.unit}`) return;
    await draw(unit, found);
    const open = (/** @type {any} */ job) => job && (job.state === "waiting" || job.state === "running");
    if (open(found.mining) || open(found.optimum)) ask(500);
  } catch (error) {
    $("mining").textContent = /** @type {Error} */ (error).message;
    shown = dreamt = "";
    for (const name of ["patches", "projections", "optimum"]) show($(name), null);
    $("tops").replaceChildren();
    $("dream").hidden = true;
  }
}

/** @param {string} unit @param {any} found */
async function draw(unit, found) {
  progress($("mining"), found.mining, () => ask(0));
  if (found.patches.length && shown !== unit) {
    const [patches, projections] = await Promise.all([image(`unit/${unit}/patches`), image(`unit/${unit}/projections`).catch(() => null)]);
    show($("patches"), patches); show($("projections"), projections);
    for (const name of ["patches", "projections"]) clear($(name), found.patches.length);
    $("tops").replaceChildren(...found.patches.map((/** @type {any} */ top) => row(top)));
    shown = unit;
  } else if (!found.patches.length) {
    show($("patches"), null); show($("projections"), null); $("tops").replaceChildren(); shown = "";
  }
  progress($("dreaming"), found.optimum, () => ask(0));
  $("dream").hidden = exported || layer().heads || Boolean(found.optimum);
  if (found.optimum?.state === "done" && dreamt !== unit) {
    show($("optimum"), await image(`unit/${unit}/optimum`));
    dreamt = unit;
  } else if (found.optimum?.state !== "done") {
    show($("optimum"), null); dreamt = "";
  }
}

/** Clears the places of a square of three columns that have no tile. @param {HTMLCanvasElement} canvas @param {number} count */
function clear(canvas, count) {
  if (canvas.hidden) return;
  const across = canvas.width / Math.min(3, count), down = canvas.height / Math.ceil(count / 3);
  for (let at = count; at % 3; at++) canvas.getContext("2d")?.clearRect((at % 3) * across, Math.floor(at / 3) * down, across, down);
}

/** @param {any} top @returns {HTMLElement} */
function row(top) {
  const item = document.createElement("li"), button = document.createElement("button");
  button.type = "button"; button.textContent = `${top.name}: ${digits(top.value)}`;
  button.disabled = !known.pictures.some(({ key }) => key === top.picture);
  button.addEventListener("click", () => set({ picture: top.picture, y: top.place.length ? top.place[0] : -1, x: top.place.length ? top.place[1] : -1 }));
  item.append(button);
  return item;
}

$("dream").addEventListener("click", () => ask(0, true));
subscribe((changed) => { if (["layer", "unit", "card"].some((name) => changed.has(name))) ask(); });

