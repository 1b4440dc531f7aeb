// @ts-check
/**
 * The realtime wire of fal's clients: a token, a WebSocket, msgpack out and in, control frames as text.
 *
 * Newest wins without flooding: one frame is in flight, and one more is *wanted*. A wanted frame is not
 * built until the wire is free, so what goes out is always the drawing of that moment.
 * Drops reconnect by themselves with a growing, jittered delay; a frame lost with its socket is sent again.
 */

import { decode, encode } from "./msgpack.js";

/** @typedef {import("./msgpack.js").Value} Value */
/**
 * @typedef {object} Phase
 * @property {"idle" | "connecting" | "open" | "away" | "locked"} name
 *   away: waiting to try again; idle: closed politely, the next frame opens it; locked: a key is needed
 * @property {number} [code] close code, when away
 * @property {number} [retryAt] `performance.now()` of the next attempt, when away
 */
/** @typedef {{sent: number, bytes: number}} Flight  `sent`: performance.now() */
/**
 * @typedef {object} Ends  what the page gives
 * @property {() => Promise<{[key: string]: Value} | null>} frame the newest request, or null for none now
 * @property {(reply: any, flight: Flight | null) => void} picture a result; flight is null for a late one
 * @property {(refusal: Refusal) => void} refused the server will not draw this frame
 * @property {(phase: Phase) => void} phase
 * @property {() => string} key an API key, or ""
 * @property {() => boolean} patient true while a silent server is to be expected: its engine is loading
 */
/** @typedef {{error: string, reason: string, detail?: {loc: (string | number)[], msg: string}[]}} Refusal */

const FIRST_RETRY_MS = 300;
const LONGEST_RETRY_MS = 4000;
const STEADY_MS = 5000; // a socket this old was a good one: start over with short delays
const SILENCE_MS = 20000; // no answer for so long: the path is dead although no close arrived
const HANDSHAKE_MS = 10000;
const TOKEN_S = 120;

export class Connection {
  /** Frames that were never sent because a newer one took their place. */
  superseded = 0;
  /** @type {WebSocket | null} */
  #socket = null;
  /** @type {(Flight & {id: string}) | null} */
  #flight = null;
  #wanted = false;
  #building = false;
  #number = 0;
  #attempt = 0;
  #openedAt = 0;
  #retryTimer = 0;
  #silenceTimer = 0;
  /** @type {Phase} */
  #phase = { name: "idle" };

  /** @param {URL} base where the server is @param {string} app e.g. "fal-ai/lcm" @param {Ends} ends */
  constructor(base, app, ends) {
    this.base = base;
    this.app = app;
    this.ends = ends;
  }

  /** Something changed: send the newest frame as soon as the wire is free. */
  want() {
    if (this.#wanted) this.superseded++;
    this.#wanted = true;
    if (this.#phase.name === "idle") this.open();
    else void this.#pump();
  }

  /** Connect now; also cuts a waiting retry short. */
  open() {
    if (this.#phase.name === "connecting" || this.#phase.name === "open") return;
    clearTimeout(this.#retryTimer);
    this.#enter({ name: "connecting" });
    void this.#connect();
  }

  /** Seconds since the frame in flight was sent; 0 when none is. */
  get waiting() {
    return this.#flight ? (performance.now() - this.#flight.sent) / 1000 : 0;
  }

  /** Something is wanted that has not come yet. */
  get busy() {
    return this.#wanted || this.#building || this.#flight !== null;
  }

  async #connect() {
    let token;
    try {
      token = await this.#token();
    } catch {
      return this.#retry(0); // the server is not there; the browser has logged why
    }
    if (token === null) return this.#enter({ name: "locked" });
    const url = new URL(`${this.app}/realtime`, this.base);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    url.searchParams.set("fal_jwt_token", token);
    url.searchParams.set("max_buffering", "1");
    const socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    const tooLate = setTimeout(() => socket.close(), HANDSHAKE_MS);
    socket.onopen = () => {
      clearTimeout(tooLate);
      this.#openedAt = performance.now();
      this.#enter({ name: "open" });
      void this.#pump();
    };
    socket.onmessage = (event) => socket === this.#socket && this.#take(event.data);
    socket.onclose = (event) => {
      clearTimeout(tooLate);
      if (socket === this.#socket) this.#closed(event.code);
    };
  }

  /** A realtime token, or null where the server wants a key. Throws when it cannot be had now. */
  async #token() {
    const key = this.ends.key();
    const answer = await fetch(new URL("tokens/", this.base), {
      method: "POST",
      headers: { "content-type": "application/json", ...(key && { authorization: `Key ${key}` }) },
      // The alias, without the owner: what fal's clients ask for.
      body: JSON.stringify({ allowed_apps: [this.app.split("/")[1]], token_expiration: TOKEN_S }),
      signal: AbortSignal.timeout(HANDSHAKE_MS),
    });
    if (answer.status === 401 || answer.status === 403) return null;
    if (!answer.ok) throw new Error(`tokens: ${answer.status}`);
    return String(await answer.json());
  }

  /** @returns {Promise<void>} */
  async #pump() {
    if (!this.#wanted || this.#flight || this.#building || this.#phase.name !== "open") return;
    this.#wanted = false;
    this.#building = true;
    const request = await this.ends.frame().finally(() => (this.#building = false));
    if (!request) return this.#pump(); // there was nothing to draw; there may be by now
    const socket = this.#socket;
    if (!socket || socket.readyState !== WebSocket.OPEN) {
      this.#wanted = true; // dropped while the picture was being packed
      return;
    }
    const id = String(++this.#number);
    const bytes = encode({ ...request, request_id: id });
    socket.send(bytes);
    this.#flight = { id, sent: performance.now(), bytes: bytes.length };
    this.#listen();
  }

  #listen() {
    clearTimeout(this.#silenceTimer);
    this.#silenceTimer = setTimeout(() => {
      if (this.ends.patient()) return this.#listen();
      this.#socket?.close();
      this.#closed(1006); // a dead path never reports its own close
    }, SILENCE_MS);
  }

  /** @param {string | ArrayBuffer} data */
  #take(data) {
    const message = typeof data === "string" ? JSON.parse(data || "null") : decode(data);
    if (!message || message.type === "x-fal-message") return;
    if (message.error === "Unauthorized") return; // a close follows; each attempt brings a new token
    if (message.type === "x-fal-error" && message.error === "TIMEOUT") return; // as is this
    const flight = this.#flight;
    const mine = flight && (!message.request_id || message.request_id === flight.id);
    if (mine) this.#land();
    if (message.type === "x-fal-error" || message.status === "error") this.ends.refused(message);
    else {
      this.#attempt = 0;
      this.ends.picture(message, mine ? flight : null);
    }
    void this.#pump();
  }

  #land() {
    this.#flight = null;
    clearTimeout(this.#silenceTimer);
  }

  /** @param {number} code */
  #closed(code) {
    this.#socket = null;
    if (this.#flight) this.#wanted = true;
    this.#land();
    if (performance.now() - this.#openedAt > STEADY_MS) this.#attempt = 0;
    // 1000 is how a server ends a quiet session: open again when there is something to say.
    if (code === 1000 && !this.#wanted) this.#enter({ name: "idle" });
    else this.#retry(code);
  }

  /** @param {number} code */
  #retry(code) {
    const longest = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** this.#attempt++);
    const delay = longest * (0.5 + Math.random() / 2); // spread, so that a thousand pages do not return at once
    this.#enter({ name: "away", code, retryAt: performance.now() + delay });
    clearTimeout(this.#retryTimer);
    this.#retryTimer = setTimeout(() => this.open(), delay);
  }

  /** @param {Phase} phase */
  #enter(phase) {
    this.#phase = phase;
    this.ends.phase(phase);
  }
}
