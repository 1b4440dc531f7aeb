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
 * @property {string} [knows] what it can draw, the end of "It knows ..."
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
const QUIET_MS = 5000;

export class Server {
  /** @type {Info} */
  info = {};
  #timer = 0;

  /** @param {URL} base @param {() => void} changed called after each answer */
  constructor(base, changed) {
    this.url = new URL("info", base);
    this.changed = changed;
    document.addEventListener("visibilitychange", () => void (document.hidden || this.ask()));
  }

  /** A server that does not tell is taken to be ready. */
  get ready() {
    return (this.info.engine?.state ?? "ready") === "ready";
  }

  /** Ask now, and go on asking while somebody looks. */
  async ask() {
    clearTimeout(this.#timer);
    let pause = QUIET_MS; // when it is away, too: the connection says so, and asks when it is back
    try {
      const answer = await fetch(this.url, { signal: AbortSignal.timeout(5000) });
      if (answer.ok) {
        this.info = await answer.json();
        if (!this.ready) pause = BUSY_MS;
        this.changed();
      }
    } catch {
      // as above
    }
    clearTimeout(this.#timer);
    if (!document.hidden) this.#timer = setTimeout(() => this.ask(), pause);
  }
}
