// The keys: one table of key, what it does, and the words of the help.

import { geometry } from "./grid.js";
import { go } from "./map.js";
import { exported } from "./source.js";
import { known, layer, set, state } from "./store.js";
import { freeze, step, stop, webcam } from "./strip.js";
import { DEFAULTS } from "./url.js";

/** @param {number} dy @param {number} dx */
function move(dy, dx) {
  if (state.area === "layers") {
    if (dx > 0) set({ area: "units" });
    else if (dy) go(state.layer + dy);
    return;
  }
  const { columns } = geometry(), count = layer().channels, column = state.unit % columns;
  if (dx < 0 && column === 0) { set({ area: "layers" }); return; }
  const to = dx ? state.unit + Math.max(-column, Math.min(columns - 1 - column, dx)) : state.unit + dy * columns;
  if (to >= 0 && to < count) set({ unit: to, y: -1, x: -1 });
}

/** @template T @param {T[]} values @param {T} value @returns {T} the one after it */
const after = (values, value) => values[(values.indexOf(value) + 1) % values.length];

/** The place of the cursor in the grid, else the middle. @returns {number} */
function token() {
  const [h, w] = layer().grid;
  if (!layer().heads) return -1;
  return state.y >= 0 ? state.y * w + state.x : Math.floor(h / 2) * w + Math.floor(w / 2);
}

/** Other ways to bring pictures to the input's size. */
const fits = () => ["resize", "crop", "letterbox"].filter((fit) => fit !== known.models[0].fit);

/** @param {KeyboardEvent} event @returns {boolean} */
const fast = (event) => event.shiftKey || /^[A-Z]$/.test(event.key);

/** server: what an exported page does not have. @type {{keys: string[], server?: boolean, help: string, run: (event: KeyboardEvent) => void}[]} */
const ALL = [
  { keys: ["ArrowUp", "i", "I"], help: "up: previous layer, or unit above", run: (e) => move(fast(e) ? -3 : -1, 0) },
  { keys: ["ArrowDown", "k", "K"], help: "down: next layer, or unit below", run: (e) => move(fast(e) ? 3 : 1, 0) },
  { keys: ["ArrowLeft", "j", "J"], help: "left; from the first column to the layers", run: (e) => move(0, fast(e) ? -3 : -1) },
  { keys: ["ArrowRight", "l", "L"], help: "right; from the layers to the units. With Shift, moves go three steps", run: (e) => move(0, fast(e) ? 3 : 1) },
  { keys: ["u"], help: "previous layer, the cursor stays", run: () => go(state.layer - 1) },
  { keys: ["o"], help: "next layer, the cursor stays", run: () => go(state.layer + 1) },
  { keys: ["e", "PageDown"], help: "next picture", run: () => step(1) },
  { keys: ["w", "PageUp"], help: "previous picture", run: () => step(-1) },
  { keys: ["c"], server: true, help: "webcam on or off", run: () => { webcam(); } },
  { keys: ["f"], server: true, help: "freeze the webcam, or let it go on", run: () => freeze() },
  { keys: ["z"], help: "zoom: all units, the unit, its projection", run: () => set({ zoom: (state.zoom + 1) % 3 }) },
  { keys: ["b"], help: "projection: off, gradient, guided, deconvnet", run: () => set({ policy: after(["", ...known.models[0].policies], state.policy) }) },
  { keys: ["m"], help: "method of the evidence", run: () => set({ method: after(known.models[0].methods, state.method || known.models[0].method), options: "" }) },
  { keys: ["d"], help: "pin the unit whose projection is shown, or let it go", run: () => set({ pin: state.pin ? "" : [state.layer, state.unit, state.y, state.x].join("/") }) },
  { keys: ["a"], server: true, help: "units: activations, or gradients of the pinned unit or the explained class", run: () => set({ tiles: state.tiles === "backward" ? "activations" : "backward" }) },
  { keys: ["s"], server: true, help: "units: activations, strongest patches, optima", run: () => set({ tiles: after(["activations", "patches", "optima"], state.tiles === "backward" ? "activations" : state.tiles) }) },
  { keys: ["v"], server: true, help: "two pictures: the units show how others differ from this one", run: () => set({ second: state.second ? "" : state.picture }) },
  { keys: ["r"], server: true, help: "list the units by activation, by gradient × activation for the explained class, or by selectivity for it", run: () => set({ rank: after(["activation", "target", "selectivity"], state.rank) }) },
  { keys: ["q"], server: true, help: "attention: of the class token, or of the token at the cursor; a click on the picture chooses another", run: () => set({ query: state.query >= 0 ? -1 : token() }) },
  { keys: ["0"], server: true, help: "pictures: as the model's card says, stretched, cropped, letterboxed", run: () => set({ fit: after(["", ...fits()], state.fit) }) },
  { keys: ["t"], help: "gamma of the units: 1, 0.7, 0.5, 0.3", run: () => set({ gamma: after([1, 0.7, 0.5, 0.3], state.gamma) }) },
  { keys: ["T"], help: "scale of each unit, or of the layer", run: () => set({ scale: state.scale === "unit" ? "layer" : "unit" }) },
  { keys: ["5"], help: "timings on or off", run: () => { const list = document.getElementById("timings"); if (list) list.hidden = !list.hidden; } },
  { keys: ["8"], help: "predictions on or off", run: () => set({ labels: !state.labels }) },
  { keys: ["9"], help: "unit card on or off", run: () => set({ card: !state.card }) },
  { keys: ["x"], help: "reference, candidate, difference", run: () => { if (known.models.length > 1) set({ model: (state.model + 1) % 3 }); } },
  { keys: ["y"], help: "copy the link", run: () => document.getElementById("copy-link")?.click() },
  { keys: ["Y"], help: "copy as command", run: () => document.getElementById("copy-command")?.click() },
  { keys: ["/"], help: "find a layer, class or picture", run: () => document.dispatchEvent(new Event("find")) },
  { keys: ["?", "h"], help: "this table", run: () => help() },
  { keys: ["Escape"], help: "back to the start: no pin, first layer, unit 0", run: () => { stop(); set({ ...DEFAULTS, sha: state.sha, picture: state.picture, layer: 0 }); } },
];
export const KEYS = ALL.filter(({ server }) => !(server && exported));

export function help() {
  const dialog = /** @type {HTMLDialogElement} */ (document.getElementById("keys"));
  if (dialog.open) { dialog.close(); return; }
  const table = /** @type {HTMLTableElement} */ (dialog.querySelector("table"));
  table.replaceChildren(...KEYS.map(({ keys, help, run }) => {
    const row = document.createElement("tr");
    const named = keys.filter((key) => key.length > 1 || key === key.toLowerCase() || !keys.includes(key.toLowerCase()));
    row.insertCell().textContent = named.map((key) => key.replace("Arrow", "")).join(" or ");
    const button = document.createElement("button");  // for mouse and touch
    button.type = "button"; button.textContent = help;
    button.addEventListener("click", () => { dialog.close(); run(new KeyboardEvent("keydown", { key: keys[0] })); });
    row.insertCell().append(button);
    return row;
  }));
  dialog.showModal();
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !known.models.length) return;
  const from = /** @type {HTMLElement} */ (event.target);
  if (from.matches("input:not([type=file])")) return;
  if (document.querySelector("dialog[open]")) {
    if (event.key === "?") help();
    return;
  }
  if (event.key === "Enter" || event.key === " ") return;  // of buttons
  if (from.matches("select") && event.key.length > 1) return;  // arrows choose; letters are keys as elsewhere
  const found = KEYS.find(({ keys }) => keys.includes(event.key));
  if (!found) return;
  event.preventDefault();
  found.run(event);
});
