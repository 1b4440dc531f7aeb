// @ts-check
/**
 * Points an unmodified @fal-ai/client or @fal-ai/serverless-client at this server, in Node and in browsers,
 * without touching DNS: calls to fal's hosts go to `{server}/__h/{host}/...`, all others stay as they are.
 *
 *     import { falHere } from "http://127.0.0.1:8000/web/fal-here.js";   // Node: from a copy of this file
 *     const { fetch } = falHere("http://127.0.0.1:8000");
 *     const { fal } = await import("@fal-ai/client");
 *     fal.config({ credentials: "id:secret", fetch });
 *
 * It replaces the global `WebSocket`, for which the clients have no option, and the global `fetch`. Clients
 * take the global `fetch` when they are loaded: call this first, or hand them the returned one as above.
 * Node 20 has a WebSocket only under --experimental-websocket, Node 22 always. The copy is an ES module: name it
 * fal-here.mjs, or keep it in a package of "type": "module".
 */

const FAL = /^(https|wss):\/\/((?:[a-z0-9-]+\.)*(?:fal\.run|fal\.ai|fal\.media))(?::443)?(?=[/?#]|$)/i;

/** Where this file came from, when a server served it. */
const HOME = /^https?:/.test(import.meta.url) ? new URL(import.meta.url).origin : "http://127.0.0.1:8000";

/**
 * The URL on `server` that stands for one of fal's; any other URL as it is.
 * @param {string} url @param {string} server an http or https URL, a path before `/__h/` included
 */
export function here(url, server = HOME) {
  return url.replace(FAL, (_, scheme, host) => {
    const base = server.replace(/\/+$/, "");
    return `${scheme.toLowerCase() === "wss" ? base.replace(/^http/i, "ws") : base}/__h/${host}`;
  });
}

/**
 * @param {string | URL} server
 * @returns {{fetch: typeof fetch, undo: () => void}} `undo` puts the globals back
 */
export function falHere(server = HOME) {
  const base = String(server);
  const { fetch, WebSocket } = globalThis;

  /** @type {typeof fetch} */
  const rerouted = (input, init) =>
    input instanceof Request ? fetch(new Request(here(input.url, base), input), init) : fetch(here(String(input), base), init);
  globalThis.fetch = rerouted;
  if (WebSocket) {
    globalThis.WebSocket = class extends WebSocket {
      /** @param {string | URL} url @param {string | string[]} [protocols] */
      constructor(url, protocols) {
        super(here(String(url), base), protocols);
      }
    };
  }
  return { fetch: rerouted, undo: () => void Object.assign(globalThis, { fetch, WebSocket }) };
}
