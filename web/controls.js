// @ts-check
/** The settings: bounds from the app's JSON schema, values for a request, and errors beside their control. */

import { $ } from "./page.js";

/** @typedef {{minimum?: number, maximum?: number, default?: unknown, description?: string}} Bounds */

const RANGES = ["strength", "num_inference_steps", "guidance_scale"];
const LARGEST_SEED = 2 ** 31 - 1;

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

  /** @param {() => void} changed */
  constructor(changed) {
    this.changed = changed;
    for (const id of RANGES) {
      const range = this.#range(id);
      range.addEventListener("input", () => {
        this.#touched.add(id);
        this.#label(range);
        changed();
      });
      this.#label(range);
    }
    this.prompt.addEventListener("input", changed);
    this.seed.addEventListener("input", () => {
      this.seed.value = this.seed.value.replace(/\D/g, "");
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
    this.seed.value = String(Math.floor(Math.random() * 1e6));
    this.changed();
  }

  /** Locked: the seed stays. Open: every picture rolls its own. */
  toggleLock() {
    this.#lock.setAttribute("aria-pressed", String(!this.locked));
    $("seed-help").textContent = this.locked ? "Same seed, same picture" : "A new seed for every picture";
    this.changed();
  }

  /** Take bounds, defaults and descriptions from the app. @param {any} schema @param {number} [goodSteps] */
  adapt(schema, goodSteps) {
    for (const id of RANGES) {
      const range = this.#range(id);
      const { minimum, maximum, default: value, description } = bounds(schema, id);
      if (minimum !== undefined) range.min = String(minimum);
      // A slider up to 20 or more is of no use: guidance past 8 only burns colours.
      if (maximum !== undefined) range.max = String(id === "guidance_scale" ? Math.min(maximum, 8) : maximum);
      if (description) range.title = description;
      if (id === "num_inference_steps" && goodSteps) {
        $(`${id}-help`).textContent = goodSteps === 1 ? "One is enough for this model" : `${goodSteps} are enough for this model`;
        if (!this.#touched.has(id)) range.value = String(Math.min(Number(value ?? 4), goodSteps));
      } else if (typeof value === "number" && !this.#touched.has(id) && id !== "strength") range.value = String(value);
      this.#label(range);
    }
  }

  get fromDrawing() {
    return $("strength-dial").dataset.idle === "false";
  }

  /** Strength only matters with a drawing. @param {boolean} drawn */
  set fromDrawing(drawn) {
    $("strength-dial").dataset.idle = String(!drawn);
    $("strength-help").textContent = drawn ? "How far it may leave your drawing" : "Counts as soon as you draw";
  }

  /** The fields of a request that stand here. */
  request() {
    if (!this.locked) this.seed.value = String(Math.floor(Math.random() * 1e6));
    return {
      prompt: this.prompt.value.trim(),
      num_inference_steps: Number(this.#range("num_inference_steps").value),
      guidance_scale: Number(this.#range("guidance_scale").value),
      seed: Math.min(Number(this.seed.value || 0), LARGEST_SEED),
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
      if (error.textContent) error.textContent = "";
      $(id).removeAttribute("aria-invalid");
    }
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
