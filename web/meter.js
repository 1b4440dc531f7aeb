// @ts-check
/** How fast it is, and where the time goes: figures, and a bar of the server's own stage timings. */

import { $ } from "./page.js";

/** @typedef {{[stage: string]: any, steps?: {seconds: number, batch: number}[]}} Timings  seconds */

/** Order is the way of a frame. `wire` and `show` are measured here, the others by the server. */
const STAGES = /** @type {const} */ ([
  ["wire", "wire", "The network, and all the server does not count"],
  ["receive", "receive", "The frame comes in"],
  ["decode", "unpack", "msgpack to a request, its pictures checked"],
  ["queue", "queue", "Waiting for a place in the batch"],
  ["text", "words", "The prompt becomes vectors; nothing when it is known"],
  ["vae_encode", "drawing", "Your drawing becomes latents"],
  ["steps", "steps", "The UNet, once per step"],
  ["vae", "picture", "Latents become pixels"],
  ["encode", "pack", "Pixels become a file"],
  ["send", "send", "The answer goes out"],
  ["show", "show", "Your browser unpacks and shows it"],
]);
const KEPT = 15;
const FPS_WINDOW_MS = 2000;
const SMOOTH = 0.35; // weight of the newest: numbers one can read

/** @param {number[]} values */
const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;

/** @param {number} ms */
const readable = (ms) => (ms >= 9950 ? `${(ms / 1000).toFixed(0)} s` : ms >= 1000 ? `${(ms / 1000).toFixed(1)} s` : `${ms.toFixed(0)} ms`);

export class Meter {
  /** @type {number[]} */
  #shownAt = [];
  /** @type {number[]} */
  #latencies = [];
  /** @type {Record<string, number>} */
  #smooth = {};
  /** @type {Record<string, {segment: HTMLElement, value: HTMLElement}>} */
  #parts = {};

  constructor() {
    for (const [stage, name, help] of STAGES) {
      const segment = document.createElement("span");
      segment.dataset.stage = stage;
      segment.title = `${name}: ${help}`;
      const item = document.createElement("li");
      item.dataset.stage = stage;
      item.title = help;
      const value = document.createElement("b");
      value.textContent = "–";
      item.append(name, " ", value);
      this.#parts[stage] = { segment, value };
      $("bar").append(segment);
      $("legend").append(item);
    }
    setInterval(() => this.#rate(), 500);
  }

  /**
   * One picture was shown.
   * @param {number} sent performance.now() when its frame left
   * @param {number} came ... when the answer arrived
   * @param {number} shown ... when it was drawn
   * @param {Timings} timings
   */
  add(sent, came, shown, timings) {
    this.#shownAt.push(shown);
    this.#latencies = [...this.#latencies, shown - sent].slice(-KEPT);
    $("latency").textContent = readable(median(this.#latencies));
    const steps = timings.steps ?? [];
    if (steps.length) {
      const mean = steps.reduce((sum, step) => sum + step.batch, 0) / steps.length;
      $("batch").textContent = Number.isInteger(mean) ? String(mean) : mean.toFixed(1);
    }
    this.#split(came - sent, shown - came, timings, steps);
    this.#rate();
  }

  /** @param {number} count */
  set superseded(count) {
    $("superseded").textContent = String(count);
  }

  /** @param {number} roundTrip ms @param {number} show ms @param {Timings} timings @param {{seconds: number}[]} steps */
  #split(roundTrip, show, timings, steps) {
    /** @type {Record<string, number>} */
    const ms = { show };
    let counted = 0;
    for (const [stage] of STAGES) {
      if (stage === "wire" || stage === "show") continue;
      const seconds = stage === "steps" ? steps.reduce((sum, step) => sum + step.seconds, 0) : Number(timings[stage] ?? 0);
      ms[stage] = seconds * 1000;
      counted += seconds * 1000;
    }
    ms.wire = Math.max(0, roundTrip - counted);
    /** @type {string[]} */
    const spoken = [];
    for (const [stage, name] of STAGES) {
      const now = ms[stage] ?? 0;
      const kept = this.#smooth[stage] ?? now;
      const smooth = (this.#smooth[stage] = kept + SMOOTH * (now - kept));
      const part = this.#parts[stage];
      if (!part) continue;
      part.segment.style.flexGrow = smooth.toFixed(2);
      part.value.textContent = smooth < 0.95 && smooth > 0.05 ? "<1" : smooth.toFixed(0);
      if (smooth >= 1) spoken.push(`${name} ${smooth.toFixed(0)}`);
    }
    const bar = this.#parts.steps?.segment;
    if (bar) bar.style.setProperty("--steps", String(steps.length || 1));
    $("bar").ariaLabel = `Where the time goes, in milliseconds: ${spoken.join(", ")}`;
  }

  #rate() {
    const since = performance.now() - FPS_WINDOW_MS;
    this.#shownAt = this.#shownAt.filter((at) => at > since);
    const [first, last] = [this.#shownAt[0], this.#shownAt.at(-1)];
    // Between pictures, not over the window: one or two say nothing of a rate.
    const rate = this.#shownAt.length > 2 && first && last ? ((this.#shownAt.length - 1) * 1000) / (last - first) : 0;
    $("fps").textContent = rate ? (rate < 9.95 ? rate.toFixed(1) : rate.toFixed(0)) : "–";
  }
}
