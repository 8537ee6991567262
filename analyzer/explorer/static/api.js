// Questions to the server. Of the questions of one view only the latest counts: an earlier one is dropped.

import { answer as answered, dropped, exported, post, refusal, Refused, runs } from "./source.js";

const TAB = Math.random().toString(36).slice(2);
/** @type {Map<string, {n: number, stop: AbortController}>} */
const latest = new Map();
let waiting = 0;

/** Called with the number of open questions whenever it changes. @type {(count: number) => void} */
let onBusy = () => {};
/** @param {(count: number) => void} call */
export function whenBusy(call) { onBusy = call; }

/** Milliseconds of the last answer of each kind: all, and the server's work alone. @type {Map<string, string>} */
const times = new Map();
/** @param {string} kind @param {number} all @param {string} header */
function timed(kind, all, header) {
  times.set(kind, `${kind}: ${all.toFixed(0)} ms (server ${header.split("dur=")[1] || "–"} ms)`);
  const list = document.getElementById("timings");
  if (list && !list.hidden) list.textContent = [...times.values()].join("\n");
}

/**
 * @template T
 * @param {(answer: Response) => Promise<T>} read
 * @param {string} path @param {Record<string, string | number>} [query] @param {string} [view]
 * @returns {Promise<T | null>} null where a later question of the view came
 */
async function ask(read, path, query = {}, view = "") {
  /** @type {Record<string, string | number>} */
  const ticket = {};
  const before = latest.get(view);
  const stop = new AbortController();
  const n = (before ? before.n : 0) + 1;
  if (view) {
    before?.stop.abort();
    latest.set(view, { n, stop });
    Object.assign(ticket, { view, n, tab: TAB, plain: 1 });  // plain: pictures are not compressed
  }
  onBusy(++waiting);
  const started = performance.now();
  try {
    const answer = await answered(path, query, ticket, stop.signal);
    timed(path.split("/")[0], performance.now() - started, answer.headers.get("Server-Timing") || "");
    if (answer.status === 204 || (view && latest.get(view)?.n !== n)) return null;
    if (!answer.ok) throw await refusal(answer);
    const found = await read(answer);
    return view && latest.get(view)?.n !== n ? null : found;
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") return null;
    throw error;
  } finally {
    onBusy(--waiting);
  }
}

/** @param {string} path @param {Record<string, string | number>} [query] @param {string} [view] @returns {Promise<any>} */
export function json(path, query, view) {
  return ask((answer) => answer.json(), path, query, view);
}

/**
 * @template T
 * @param {(data: ArrayBuffer, about: any) => T | Promise<T>} decode  of the bytes after what is said
 * @param {string} path @param {Record<string, string | number>} [query] @param {string} [view]
 * @returns {Promise<{about: any, data: T} | null>}
 */
export function packed(decode, path, query, view) {
  return ask(async (answer) => {
    const bytes = await answer.arrayBuffer(), length = new DataView(bytes).getUint32(0, true);
    const about = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 4, length)));
    return { about, data: await decode(bytes.slice(4 + length), about) };
  }, path, query, view);
}

/** Drops the open question of a view. @param {string} view */
export function cancel(view) {
  const before = latest.get(view);
  if (!before) return;
  before.stop.abort();
  latest.set(view, { n: before.n + 1, stop: before.stop });
}

/** @param {ArrayBuffer | Blob} data @returns {Promise<ImageBitmap>} its pixels as they are in the file */
export function bitmap(data) {
  return createImageBitmap(new Blob([data]), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
}

/** @param {string} path @param {Record<string, string | number>} [query] @param {string} [view] */
export function image(path, query, view) {
  return ask(async (answer) => bitmap(await answer.blob()), path, query, view);
}

/** @param {string} path @returns {Promise<Blob | null>} */
export function blob(path) { return ask((answer) => answer.blob(), path); }

/**
 * @param {Blob} picture @param {string} name @param {boolean} [frame] whether it is one of many, which is soon forgotten
 * @returns {Promise<{key: string, name: string, path: string}>}
 */
export async function drop(picture, name, frame = false) {
  if (runs) return (await import("./local.js")).add(picture, name);
  if (exported) throw new Refused("this page has no model: export it with --with-model");
  const answer = await post(picture, frame ? { name, frame: "1" } : { name });
  if (!answer.ok) throw await refusal(answer);
  const said = await answer.json();
  if (!frame) dropped.set(said.key, [picture, name]);
  return said;
}
