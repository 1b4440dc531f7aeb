// @ts-check
/**
 * The hand: mouse, finger, stylus and keys on an element, as begin / extend / end on a drawing.
 * Keys: arrows move the pen (Shift: finely), Space puts it down or lifts it, Enter makes one dot.
 */

import { SIDE } from "./canvas.js";

/** @typedef {import("./canvas.js").Drawing} Drawing */
/** @typedef {import("./canvas.js").Point} Point */

const KEY_STEP = 16;
const FINE_STEP = 2;
/** @type {Record<string, [number, number]>} */
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Pen {
  /** @type {number | null} */
  #pointer = null;
  #byKeys = { x: SIDE / 2, y: SIDE / 2, down: false };

  /**
   * @param {HTMLElement} surface shows a square of SIDE × SIDE, however large
   * @param {HTMLElement} nib a ring that shows the width of the brush
   * @param {Drawing} drawing
   * @param {() => void} began called when a stroke starts
   */
  constructor(surface, nib, drawing, began) {
    this.surface = surface;
    this.nib = nib;
    this.drawing = drawing;
    this.began = began;
    surface.addEventListener("pointerdown", (event) => this.#down(event));
    surface.addEventListener("pointermove", (event) => this.#move(event));
    surface.addEventListener("pointerup", (event) => this.#up(event));
    surface.addEventListener("pointercancel", (event) => this.#up(event));
    surface.addEventListener("pointerleave", () => this.#pointer === null && this.#hide());
    surface.addEventListener("keydown", (event) => this.#key(event));
    surface.addEventListener("focus", () => surface.matches(":focus-visible") && this.#ring(this.#byKeys));
    surface.addEventListener("blur", () => this.#leave());
    surface.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  /** @param {PointerEvent} event @returns {Point} */
  #point(event) {
    const box = this.surface.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * SIDE,
      y: ((event.clientY - box.top) / box.height) * SIDE,
      // A mouse reports 0.5 and many fingers 0 or 1: only a stylus means it.
      pressure: event.pointerType === "pen" && event.pressure > 0 ? 0.3 + 1.4 * event.pressure : 1,
    };
  }

  /** @param {PointerEvent} event */
  #down(event) {
    if (this.#pointer !== null || event.button > 0) return; // a second finger, another button
    event.preventDefault();
    this.surface.focus({ preventScroll: true });
    this.surface.setPointerCapture(event.pointerId);
    this.#pointer = event.pointerId;
    this.#byKeys.down = false;
    this.began();
    this.drawing.begin(this.#point(event));
  }

  /** @param {PointerEvent} event */
  #move(event) {
    if (event.pointerType !== "touch") this.#ring(this.#point(event));
    if (event.pointerId !== this.#pointer) return;
    const between = event.getCoalescedEvents?.() ?? [];
    for (const each of between.length ? between : [event]) this.drawing.extend(this.#point(each));
  }

  /** @param {PointerEvent} event */
  #up(event) {
    if (event.pointerId !== this.#pointer) return;
    this.#pointer = null;
    this.drawing.end();
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = this.#byKeys;
    const arrow = ARROWS[event.key];
    if (arrow) {
      const step = event.shiftKey ? FINE_STEP : KEY_STEP;
      at.x = Math.min(SIDE - 1, Math.max(0, at.x + arrow[0] * step));
      at.y = Math.min(SIDE - 1, Math.max(0, at.y + arrow[1] * step));
      if (at.down) this.drawing.extend({ ...at, pressure: 1 });
    } else if (event.key === " " || event.key === "Enter") {
      if (at.down) {
        this.drawing.end();
        at.down = false;
      } else {
        this.began();
        this.drawing.begin({ ...at, pressure: 1 });
        at.down = event.key === " " && this.drawing.tool !== "fill";
        if (!at.down) this.drawing.end();
      }
    } else return;
    event.preventDefault();
    this.#ring(at);
  }

  #leave() {
    if (this.#byKeys.down) this.drawing.end();
    this.#byKeys.down = false;
    this.#hide();
  }

  #hide() {
    this.nib.hidden = true;
  }

  /** @param {{x: number, y: number}} at */
  #ring(at) {
    this.nib.hidden = false;
    this.nib.dataset.down = String(this.#byKeys.down);
    const scale = this.surface.clientWidth / SIDE;
    const width = Math.max(6, this.drawing.size * scale);
    this.nib.style.width = this.nib.style.height = `${width}px`;
    this.nib.style.transform = `translate(${at.x * scale - width / 2}px, ${at.y * scale - width / 2}px)`;
  }
}
