// @ts-check
/**
 * What the server says of itself at GET info: is the engine ready, what does it load, what can be asked for.
 * Asked often only while something is under way.
 */

/**
 * @typedef {object} Suggestions
 * @property {string[]} [prompts]
 * @property {(string | {name?: string, colour?: string, color?: string, hex?: string})[]} [palette]
 * @property {number} [native_size] side in pixels the model draws at
 * @property {number} [max_good_steps] above it the model gets slower, not better
 */
/** @typedef {{stage: string, done: number, total: number, text: string}} Progress  total 0 = unknown */
/**
 * @typedef {object} Info
 * @property {{name: string, kind?: string, native?: number, device?: string, features?: string[]}[]} [models]
 * @property {{state: string, progress?: Progress | null}} [engine]
 *   state: "starting" | "ready" | "restarting" | "stopped"
 * @property {{id: string, schema?: any}[]} [apps]
 * @property {Suggestions} [suggestions]
 */

const BUSY_MS = 700;
const QUIET_MS = 20000;

export class Server {
  /** @type {Info} */
  info = {};
  #timer = 0;

  /** @param {URL} base @param {() => void} changed called after each answer */
  constructor(base, changed) {
    this.url = new URL("info", base);
    this.changed = changed;
  }

  /** A server that does not tell is taken to be ready. */
  get ready() {
    return (this.info.engine?.state ?? "ready") === "ready";
  }

  /** Ask now, and go on asking. */
  async ask() {
    clearTimeout(this.#timer);
    try {
      const answer = await fetch(this.url, { signal: AbortSignal.timeout(5000) });
      if (answer.ok) {
        this.info = await answer.json();
        this.changed();
      }
    } catch {
      return; // it is away: the connection says so, and asks again when it is back
    }
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.ask(), this.ready ? QUIET_MS : BUSY_MS);
  }
}
