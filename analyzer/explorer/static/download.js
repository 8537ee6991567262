// What is shown, as one picture with a caption.

import { color } from "./draw.js";
import { known, layer, state } from "./store.js";

/** @param {string} id @returns {HTMLCanvasElement} */
const canvas = (id) => /** @type {HTMLCanvasElement} */ (document.getElementById(id));
/** @param {string} id @returns {string} */
const text = (id) => document.getElementById(id)?.textContent?.trim() || "";
const SIDE = 320, GAP = 16, LINE = 20;

/** @returns {string[]} */
function caption() {
  const picture = known.pictures.find((one) => one.key === state.picture);
  const projection = state.policy ? `, ${state.policy} projection` : "";
  return [
    `${text("model")}, ${picture?.name || "a picture"}: ${text("evidence-title")}`,
    `${layer().name} (${text("layer-about")}; ${text("scale")}), unit ${state.unit}${projection}`,
  ];
}

/** Input and evidence, of two models or pictures both, at the left, the units, and at the right the unit and its projection. @returns {HTMLCanvasElement} */
export function composed() {
  const grid = canvas("grid"), made = document.createElement("canvas");
  const columns = [["picture", "second", "evidence", "other"], ["tile", "projection"]]
    .map((names) => names.map(canvas).filter((one) => one.width > 1 && one.offsetParent));
  const heights = columns.map((all) => all.reduce((sum, one) => sum + SIDE * one.height / one.width + GAP, 0));
  const high = Math.max(grid.height + GAP, ...heights), lines = caption();
  made.width = 2 * SIDE + grid.width + 4 * GAP;
  made.height = Math.ceil(high + GAP + LINE * lines.length + GAP);
  const context = /** @type {CanvasRenderingContext2D} */ (made.getContext("2d"));
  context.fillStyle = color("--paper");
  context.fillRect(0, 0, made.width, made.height);
  context.imageSmoothingEnabled = false;
  columns.forEach((all, side) => {
    let top = GAP;
    for (const one of all) {
      const height = SIDE * one.height / one.width;
      context.drawImage(one, side ? made.width - SIDE - GAP : GAP, top, SIDE, height);
      top += height + GAP;
    }
  });
  context.drawImage(grid, SIDE + 2 * GAP, GAP);
  context.fillStyle = color("--ink");
  context.font = "14px system-ui, sans-serif";
  lines.forEach((line, at) => context.fillText(line, GAP, high + GAP + LINE * (at + 0.7), made.width - 2 * GAP));
  return made;
}

/** @param {string} href @param {string} name */
export function save(href, name) {
  const link = document.createElement("a");
  link.download = name.replace(/[^\w.-]+/g, "_");
  link.href = href;
  link.click();
}
