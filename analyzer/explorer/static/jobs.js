// Work in the background: how far it is, and a button that stops it or lets it go on.

import { json } from "./api.js";
import { exported } from "./source.js";

/**
 * @param {{number: number, state: string, done: number, total: number, error: string} | null} job @param {() => void} then
 * @returns {(string | HTMLElement)[]} nothing of one that is done
 */
export function progress(job, then) {
  if (!job || job.state === "done") return [];
  const open = job.state === "waiting" || job.state === "running", button = document.createElement("button");
  const said = open && job.total ? `${job.done} of ${job.total}` : job.error || job.state;
  if (exported) return [said];
  button.type = "button"; button.textContent = open ? "Stop" : "Go on";
  button.addEventListener("click", async () => { await json(`job/${job.number}`, { start: Number(!open) }); then(); });
  return [`${said} `, button];
}
