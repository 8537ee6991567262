// Work in the background: how far it is, and a button that stops it or lets it go on.

import { json } from "./api.js";
import { exported } from "./source.js";

/**
 * Shows it in its place; nothing of one that is done. The button stays the same, so that it can be pressed meanwhile.
 * @param {HTMLElement} place @param {{number: number, state: string, done: number, total: number, error: string} | null} job
 * @param {() => void} then
 */
export function progress(place, job, then) {
  if (!job || job.state === "done") { place.replaceChildren(); return; }
  const open = job.state === "waiting" || job.state === "running";
  const said = `${open && job.total ? `${job.done} of ${job.total}` : job.error || job.state} `;
  const before = place.querySelector("button"), button = before || document.createElement("button");
  place.title = job.error;
  button.type = "button"; button.textContent = open ? "Stop" : "Go on";
  button.hidden = exported || job.state === "failed";
  button.onclick = async () => { await json(`job/${job.number}`, { start: Number(!open) }); then(); };
  if (before?.previousSibling) before.previousSibling.textContent = said;
  else place.replaceChildren(said, button);
}
