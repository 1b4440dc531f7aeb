// @ts-check
/** The settings: bounds from the app's JSON schema, values for a request, and errors beside their control. */

import { $ } from "./page.js";

/** @typedef {{minimum?: number, maximum?: number, default?: unknown, description?: string}} Bounds */

const RANGES = ["strength", "num_inference_steps", "guidance_scale"];
const WORDLESS = "Say in words what it should be";

/** Few digits: one can tell them apart, and say them. */
const anySeed = () => String(Math.floor(Math.random() * 1e6));

/**
 * A field of a JSON schema, seen through pydantic's `anyOf: [{...}, {type: "null"}]` and `exclusive*` bounds.
 * @param {any} schema @param {string} field @returns {Bounds}
 */
export function bounds(schema, field) {
  const property = schema?.properties?.[field];
  if (!property) return {};
  const kind = property.anyOf?.find((/** @type {any} */ each) => each.type !== "null") ?? {};
  const merged = { ...kind, ...property };
  return {
    minimum: merged.minimum ?? merged.exclusiveMinimum,
    maximum: merged.maximum ?? merged.exclusiveMaximum,
    default: merged.default,
    description: merged.description,
  };
}

export class Controls {
  /** @type {HTMLInputElement} */
  prompt = $("prompt");
  /** @type {HTMLInputElement} */
  seed = $("seed");
  /** @type {HTMLButtonElement} */
  #lock = $("lock");
  #touched = new Set();
  #goodSteps = Infinity;
  #masked = false;
  /** Strength before a mask raised it, to be put back. @type {string | null} */
  #before = null;

  /** @param {() => void} changed */
  constructor(changed) {
    this.changed = changed;
    for (const id of RANGES) {
      const range = this.#range(id);
      range.addEventListener("input", () => {
        this.#touched.add(id);
        if (id === "strength") this.#before = null;
        this.#label(range);
        this.#explain();
        changed();
      });
      this.#label(range);
    }
    this.prompt.addEventListener("input", changed);
    this.seed.addEventListener("input", () => {
      this.seed.value = this.seed.value.replace(/\D/g, "");
      // The server takes larger ones, but neither page nor answer could tell them apart.
      if (Number(this.seed.value) > Number.MAX_SAFE_INTEGER) this.seed.value = String(Number.MAX_SAFE_INTEGER);
      this.#explain();
      changed();
    });
    $("dice").addEventListener("click", () => this.roll());
    this.#lock.addEventListener("click", () => this.toggleLock());
    for (const form of ["ask", "dials"]) $(form).addEventListener("submit", (event) => event.preventDefault());
  }

  get locked() {
    return this.#lock.getAttribute("aria-pressed") === "true";
  }

  /** A new seed, now. */
  roll() {
    this.seed.value = anySeed();
    this.#explain();
    this.changed();
  }

  /** Locked: the seed stays. Open: every picture rolls its own. */
  toggleLock() {
    this.#lock.setAttribute("aria-pressed", String(!this.locked));
    this.#explain();
    this.changed();
  }

  /** Take bounds, defaults and descriptions from the app. @param {any} schema @param {number} [goodSteps] */
  adapt(schema, goodSteps) {
    this.#goodSteps = goodSteps ?? Infinity;
    for (const id of RANGES) {
      const range = this.#range(id);
      const { minimum, maximum, default: value, description } = bounds(schema, id);
      if (minimum !== undefined) range.min = String(minimum);
      // A slider up to 20 or more is of no use: guidance past 8 only burns colours.
      if (maximum !== undefined) range.max = String(id === "guidance_scale" ? Math.min(maximum, 8) : maximum);
      if (description) range.title = description;
      if (typeof value === "number" && !this.#touched.has(id)) {
        const good = id === "num_inference_steps" ? Math.min(value, this.#goodSteps) : value;
        if (id === "strength" && this.#before !== null) this.#before = String(good);
        else range.value = String(good);
      }
      this.#label(range);
    }
    this.#explain();
  }

  get fromDrawing() {
    return $("strength-dial").dataset.idle === "false";
  }

  /** Strength only matters with a drawing. @param {boolean} drawn */
  set fromDrawing(drawn) {
    $("strength-dial").dataset.idle = String(!drawn);
    this.#explain();
  }

  /** At less than full strength a mask shows what is below it: white paper stays white. @param {boolean} masked */
  set masked(masked) {
    if (masked === this.#masked) return;
    this.#masked = masked;
    const strength = this.#range("strength");
    if (masked) [this.#before, strength.value] = [strength.value, strength.max];
    else if (this.#before !== null) [this.#before, strength.value] = [null, this.#before];
    this.#label(strength);
    this.#explain();
  }

  /** Ask for words where there are none. */
  askForWords() {
    const error = $("prompt-error");
    if (!this.prompt.value.trim()) error.textContent = WORDLESS;
    else if (error.textContent === WORDLESS) error.textContent = "";
  }

  /** The fields of a request that stand here. */
  request() {
    if (!this.locked) this.seed.value = anySeed();
    return {
      prompt: this.prompt.value.trim(),
      num_inference_steps: Number(this.#range("num_inference_steps").value),
      guidance_scale: Number(this.#range("guidance_scale").value),
      seed: Number(this.seed.value || anySeed()),
      ...(this.fromDrawing && { strength: Number(this.#range("strength").value) }),
    };
  }

  /**
   * Show each entry at its control; returns what has none, as one text.
   * @param {{loc: (string | number)[], msg: string}[]} detail pydantic's: loc ends in the field
   */
  blame(detail) {
    this.forgive();
    const rest = [];
    for (const { loc, msg } of detail) {
      const field = loc.find((part) => typeof part === "string" && document.getElementById(`${part}-error`));
      if (field === undefined) rest.push(`${loc.filter((part) => part !== "body").join(" ")}: ${msg}`);
      else {
        $(`${field}-error`).textContent = msg;
        $(String(field)).setAttribute("aria-invalid", "true");
      }
    }
    return rest.join("; ");
  }

  /** All is well again. */
  forgive() {
    for (const id of ["prompt", "seed", ...RANGES]) {
      const error = $(`${id}-error`);
      if (error.textContent && error.textContent !== WORDLESS) error.textContent = "";
      $(id).removeAttribute("aria-invalid");
    }
  }

  /** One line below each control: what it does as it stands. */
  #explain() {
    const lent = this.#masked && this.#before !== null;
    const drawn = lent ? "Full while you repaint: less lets what was there show through" : "How far it may leave your drawing";
    $("strength-help").textContent = this.fromDrawing ? drawn : "Counts as soon as you draw";
    const [steps, good] = [Number(this.#range("num_inference_steps").value), this.#goodSteps];
    const enough = good === 1 ? "One is enough for this model" : `${good} are enough for this model`;
    $("num_inference_steps-help").textContent = good === Infinity ? "More is finer and slower" : steps > good ? "Slower, and hardly better" : enough;
    const seed = this.seed.value;
    const kept = !seed ? "Empty: a new seed for every picture" : Number(seed) === Number.MAX_SAFE_INTEGER ? "The largest seed there is" : "Same seed, same picture";
    $("seed-help").textContent = this.locked ? kept : "A new seed for every picture";
  }

  /** @param {string} id @returns {HTMLInputElement} */
  #range(id) {
    return $(id);
  }

  /** @param {HTMLInputElement} range */
  #label(range) {
    const output = range.parentElement?.querySelector("output");
    if (output) output.value = Number(range.step) < 1 ? Number(range.value).toFixed(range.step === "0.1" ? 1 : 2) : range.value;
    const span = Number(range.max) - Number(range.min);
    range.style.setProperty("--at", `${((Number(range.value) - Number(range.min)) / span) * 100}%`);
  }
}
