// The layers as a graph, top down; the line at the left of a layer goes to those that it is computed from.

import { json } from "./api.js";
import { color } from "./draw.js";
import { known, layers, live, set, shownPicture, state, subscribe } from "./store.js";

const list = /** @type {HTMLElement} */ (document.getElementById("layers"));
const ROW = 36, AROUND = 80;  // pixels of a layer, as in style.css, and what is seen above and below it

export function build() {
  const top = list.scrollTop;
  list.replaceChildren(...layers().map((about, number) => {
    const item = document.createElement("div"), name = document.createElement("b"), size = document.createElement("span");
    item.role = "option"; item.id = `layer-${number}`;
    name.append(short(about.name)); name.title = about.name;
    const said = about.drift === null ? "–" : about.drift === undefined ? field(about) : about.drift >= 200 ? "equal" : `${about.drift.toFixed(1)} dB`;
    size.append(element("i", said), `${about.heads ? "Attention" : about.op} ${[about.channels, ...about.grid].join("×")}`);
    size.title = about.drift === null ? "the candidate has no counterpart of this size" : size.textContent || "";
    item.append(name, size);
    item.addEventListener("click", () => go(number));
    return item;
  }));
  edges();
  list.scrollTop = top;
  select();
}

/** @param {any} about @returns {string} the receptive field of a layer's units, where it is not the whole picture */
function field(about) {
  const { size } = about.field;
  return size && !size.includes(null) ? `field ${size.join("×")}` : "";
}

/** @param {string} tag @param {string} text @returns {HTMLElement} */
function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

/** The end of a name, since the beginning is that of many. @param {string} name @returns {string} */
function short(name) {
  const text = name.replace(/^\//, "").replace(/_output_0$/, "");
  return text.length > 20 ? `…${text.slice(-19)}` : text;
}

function edges() {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), all = layers();
  svg.setAttribute("width", "24"); svg.setAttribute("height", String(all.length * ROW));
  svg.setAttribute("aria-hidden", "true");
  all.forEach((about, number) => {
    for (const parent of about.parents) {
      const line = document.createElementNS(svg.namespaceURI, "path");
      const [from, to] = [parent * ROW + ROW / 2, number * ROW + ROW / 2], skip = Math.min(9, 1.5 * Math.log2(number - parent));
      line.setAttribute("d", number - parent === 1 ? `M18 ${from}V${to}` : `M18 ${from}C${14 - skip} ${from} ${14 - skip} ${to} 18 ${to}`);
      line.setAttribute("fill", "none"); line.setAttribute("stroke", color("--faint"));
      svg.append(line);
    }
    const dot = document.createElementNS(svg.namespaceURI, "circle");
    dot.setAttribute("cx", "18"); dot.setAttribute("cy", String(number * ROW + ROW / 2)); dot.setAttribute("r", "3");
    dot.setAttribute("fill", about.drift === undefined ? color("--accent") : drift(about.drift));
    svg.append(dot);
  });
  list.prepend(svg);
}

/** @param {number | null} db signal to noise of the candidate's layer @returns {string} from blue (equal) to orange */
function drift(db) {
  if (db === null) return color("--faint");
  const share = Math.max(0, Math.min(1, (40 - db) / 40));
  return `color-mix(in oklch, ${color("--accent")}, ${color("--mark")} ${Math.round(100 * share)}%)`;
}

/** Shows another layer; the unit stays where the layer has it. @param {number} number */
export function go(number) {
  const all = layers(), to = Math.max(0, Math.min(all.length - 1, number));
  set({ layer: to, unit: Math.min(state.unit, all[to].channels - 1), y: -1, x: -1 });
}

function select() {
  /** @type {NodeListOf<HTMLElement>} */ (list.querySelectorAll("[role=option]")).forEach((item, number) => {
    const on = number === state.layer;
    item.setAttribute("aria-selected", String(on));
    if (!on) return;
    const [from, to] = [item.offsetTop - AROUND, item.offsetTop + ROW + AROUND - list.clientHeight];
    list.scrollTop = Math.max(to, Math.min(from, list.scrollTop));  // the list alone: a narrow page stays where it is
  });
  list.setAttribute("aria-activedescendant", `layer-${state.layer}`);
  const about = layers()[state.layer];
  if (!about) return;
  /** @type {HTMLElement} */ (document.getElementById("layer-name")).textContent = about.name;
  /** @type {HTMLElement} */ (document.getElementById("layer-about")).textContent =
    [`${about.heads ? "Attention" : about.op}, ${about.channels} ${about.heads ? "head" : "unit"}${about.channels > 1 ? "s" : ""}${about.grid.length ? ` of ${about.grid.join("×")}` : ""}`, field(about)].filter(Boolean).join(", ");
}

/** Colors the layers by how far the candidate drifts on the picture. */
async function drifts() {
  if (known.models.length < 2) return;
  const found = await json(`drifts/${shownPicture()}`, {}, "drifts");
  if (!found) return;
  layers().forEach((about, number) => { about.drift = found.layers[number]; });
  first = found.first;
  const button = /** @type {HTMLButtonElement} */ (document.getElementById("first"));
  button.hidden = first === null;
  build();
}

/** The layer at which noise grows most. @type {number | null} */
let first = null;
document.getElementById("first")?.addEventListener("click", () => { if (first !== null) go(first); });

subscribe((changed) => {
  if (changed.has("layer")) select();
  if (changed.has("picture") && !live.on) drifts();
});

export { drifts };
