// Where answers come from: the server; in an exported page the page itself; in an exported folder the files in it.

const here = document.getElementById("answers");
/** {question: [status, type, bytes in base64 or name of a file]}. @type {Promise<Record<string, [number, string, string]>> | null} */
const index = !here ? null
  : here instanceof HTMLLinkElement ? fetch(here.href).then((answer) => answer.json())
    : Promise.resolve(JSON.parse(here.textContent || "{}"));

/** Whether there is no server. */
export const exported = index !== null;
/** Whether the model is in the exported page. */
export const runs = exported && document.getElementById("model-about") !== null;
if (exported) document.body.dataset.exported = runs ? "model" : "answers";
const MISSING = { error: "not in this page", hint: "units with a dot are in it" };

/** The server says why it does not answer. */
export class Refused extends Error {}
/** @param {Response} answer @returns {Promise<Refused>} */
export async function refusal(answer) {
  const said = await answer.json().catch(() => ({ error: answer.statusText || `the server answers ${answer.status}` }));
  return new Refused(said.hint ? `${said.error}: ${said.hint}` : said.error);
}

/** Of the URL; in a frame of another site there is no cookie. */
const token = new URLSearchParams(location.search).get("token") || "";
export const framed = window.top !== window;
/** What every question to the server has. */
export const headers = /** @type {Record<string, string>} */ ({ "X-Explorer-Status": "1", ...(token ? { "X-Explorer-Token": token } : {}) });
/** The status of a refusal is in a header, since browsers write others than 200 on their console. @param {Response} answer @returns {Response} */
function withStatus(answer) {
  const status = Number(answer.headers.get("X-Explorer-Status"));
  return status ? new Response(answer.body, { status, headers: answer.headers }) : answer;
}

/** Pictures that were dropped, by key: a server that was started again gets them again. @type {Map<string, [Blob, string]>} */
export const dropped = new Map();
const PATIENCE = 60_000, PAUSE = 250; // milliseconds

/** @param {Blob} picture @param {Record<string, string>} about @returns {Promise<Response>} */
export async function post(picture, about) {
  return withStatus(await fetch(`api/pictures?${new URLSearchParams(about)}`, { method: "POST", body: picture, headers }));
}

/** Called with whether the server is gone, whenever that changes. @type {(gone: boolean) => void} */
let onGone = () => {};
/** @param {(gone: boolean) => void} call */
export function whenGone(call) { onGone = call; }

/** Ends when a server that crashed answers again. @type {Promise<void> | null} */
let back = null;
function returned() {
  back ??= (async () => {
    onGone(true);
    for (const until = Date.now() + PATIENCE; Date.now() < until;) {
      await new Promise((done) => { setTimeout(done, PAUSE); });
      const answer = await fetch("api/pictures", { headers }).catch(() => null);
      if (!answer?.ok) continue;
      for (const [picture, name] of dropped.values()) await post(picture, { name }).catch(() => null);
      break;
    }
    onGone(false);
    back = null;
  })();
  return back;
}

/** Asks, and where the server crashes meanwhile, once more when it is back. @param {() => Promise<Response>} send */
async function insist(send) {
  try {
    return await send();
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    await returned();
  }
  try {
    return await send();
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    returned();
    throw new Refused("the explorer has ended, or crashes on this question");
  }
}

/** @param {string} path @param {Record<string, string | number>} query @returns {string} */
function question(path, query) {
  const said = Object.keys(query).sort().map((name) => `${name}=${query[name]}`);
  return said.length ? `${path}?${said.join("&")}` : path;
}

/**
 * @param {string} path @param {Record<string, string | number>} query  what the answer depends on
 * @param {Record<string, string | number>} [ticket]  what it does not depend on @param {AbortSignal} [signal]
 * @returns {Promise<Response>}
 */
export async function answer(path, query, ticket = {}, signal) {
  if (!index) {
    const asked = new URLSearchParams(Object.entries({ ...query, ...ticket }).map(([name, value]) => [name, String(value)]));
    return withStatus(await insist(() => fetch(`api/${path}?${asked}`, { signal, headers })));
  }
  const found = (await index)[question(path, query)];
  if (!found) return (runs && await (await import("./local.js")).answer(path, query)) || Response.json(MISSING, { status: 404 });
  const [status, type, data] = found, about = { status, headers: { "Content-Type": type } };
  if (here instanceof HTMLLinkElement) return new Response((await fetch(new URL(data, here.href))).body, about);
  return new Response(Uint8Array.from(atob(data), (c) => c.charCodeAt(0)), about);
}

/** @param {string} path @param {Record<string, string | number>} query @returns {Promise<string>} an address for `img` */
export async function address(path, query) {
  const said = framed && token ? { ...query, token } : query;
  if (!index) return `api/${path}?${new URLSearchParams(Object.entries(said).map(([name, value]) => [name, String(value)]))}`;
  return URL.createObjectURL(await (await answer(path, query)).blob());
}
