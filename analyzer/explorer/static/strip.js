// The pictures: those of the start, those that are dropped, pasted or opened, and the webcam.

import { drop } from "./api.js";
import { roving } from "./roving.js";
import { address } from "./source.js";
import { known, live, refresh, set, state, subscribe } from "./store.js";

/** @param {string} id @returns {any} */
const $ = (id) => document.getElementById(id);

export function build() {
  $("pictures").replaceChildren(...known.pictures.map((one) => {
    const item = document.createElement("button"), thumb = document.createElement("img");
    item.type = "button"; item.role = "option"; item.title = one.name; item.value = one.key;
    address(`picture/${one.key}`, { side: 96 }).then((at) => { thumb.src = at; });
    thumb.alt = one.name; thumb.loading = "lazy";
    item.append(thumb);
    item.addEventListener("click", () => set({ picture: one.key }));
    return item;
  }));
  select();
}

function select() {
  const within = $("pictures").contains(document.activeElement);
  for (const item of $("pictures").children) {
    const on = item.value === state.picture;
    item.setAttribute("aria-selected", String(on));
    if (on) item.scrollIntoView({ block: "nearest", inline: "nearest" });
    if (on && within) item.focus();
  }
}

roving($("pictures"), (one) => one.click());

/** @param {number} by */
export function step(by) {
  const at = known.pictures.findIndex((one) => one.key === state.picture), count = known.pictures.length;
  stop();
  set({ picture: known.pictures[(at + by + count) % count].key });
}

/** @param {Iterable<Blob & {name?: string}>} files @param {string} [name] of those that have none */
async function take(files, name = "pasted") {
  if (!known.models.length) return;
  for (const file of files) {
    try {
      const made = await drop(file, file.name || name);
      if (!known.pictures.some((one) => one.key === made.key)) known.pictures.push(made);
      build();
      set({ picture: made.key });
    } catch (error) {
      $("busy").textContent = /** @type {Error} */ (error).message;
    }
  }
}

// ---- Webcam ----

/** @type {MediaStream | null} */
let stream = null;
let frozen = false;

export async function webcam() {
  if (stream) { await stop(); return; }
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480 } });
  } catch (error) {
    $("busy").textContent = `no webcam: ${navigator.mediaDevices ? /** @type {Error} */ (error).message : "browsers allow it on this machine's pages and by https"}`;
    return;
  }
  frozen = false;
  live.on = true;
  $("webcam").setAttribute("aria-pressed", "true");
  $("camera").srcObject = stream;
  await $("camera").play();
  frame();
}

export async function stop() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  $("webcam").setAttribute("aria-pressed", "false");
  await settle();
}

export async function freeze() {
  if (!stream) return;
  frozen = !frozen;
  if (frozen) await settle();
  else { live.on = true; frame(); }
}

/** The frame that is shown. @type {{blob: Blob, key: string} | null} */
let last = null;

/** Keeps the last frame as a picture, and shows everything of it. */
async function settle() {
  if (!live.on) return;
  live.on = false;
  if (last?.key === state.picture) await take([last.blob], "webcam");
  refresh("picture");
}

/** What follows when the units of a frame are drawn. @type {(() => void) | null} */
let whenDrawn = null;
/** The units of a picture are drawn. */
export function drawn() {
  const next = whenDrawn;
  whenDrawn = null;
  next?.();
}

/** Sends a frame; the next one when its units are drawn, or after a second. */
async function frame() {
  if (!stream || frozen) return;
  const camera = $("camera"), canvas = document.createElement("canvas");
  canvas.width = camera.videoWidth || 640; canvas.height = camera.videoHeight || 480;
  /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d")).drawImage(camera, 0, 0);
  const blob = await new Promise((/** @type {(value: Blob | null) => void} */ done) => canvas.toBlob(done, "image/jpeg", 0.8));
  if (blob && stream) {
    try {
      const made = await drop(blob, "webcam", true);
      if (stream && !frozen) { last = { blob, key: made.key }; set({ picture: made.key }); }
    } catch (error) {
      $("busy").textContent = /** @type {Error} */ (error).message;
    }
  }
  whenDrawn = frame;
  setTimeout(() => { if (whenDrawn === frame) drawn(); }, 1000);
}

$("webcam").addEventListener("click", webcam);
$("files").addEventListener("change", (/** @type {any} */ event) => take(event.target.files));
addEventListener("paste", (event) => take([...(event.clipboardData?.files || [])]));
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
addEventListener("dragleave", () => document.body.classList.remove("dropping"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  take([...(event.dataTransfer?.files || [])]);
});

subscribe((changed) => { if (changed.has("picture")) select(); });
