// @ts-check
/** The tool bar, the palette, and pictures brought along by file, drop or paste. */

import { $ } from "./page.js";

/** @typedef {import("./canvas.js").Drawing} Drawing */
/** @typedef {import("./canvas.js").Tool} Tool */
/** @typedef {import("./info.js").Suggestions} Suggestions */

const COLOURS = ["#0d0d0f", "#f7f7f7", "#e01c21", "#fa8714", "#fade26", "#219e38", "#33d1db", "#214dd9", "#852eb3", "#fa8cbf", "#73421f", "#85878c"];

/** Names or hex colours, in whatever form the server lists them. @param {unknown} palette @returns {{name: string, hex: string}[]} */
export function swatches(palette) {
  const given = Array.isArray(palette) ? palette : palette ? Object.entries(palette) : COLOURS;
  return given.flatMap((each) => {
    const [name, hex] = Array.isArray(each) ? each : typeof each === "string" ? [each, each] : [each.name, each.colour ?? each.color ?? each.hex];
    return /^#[0-9a-f]{6}$/i.test(hex) ? [{ name: name ?? hex, hex }] : [];
  });
}

export class Tools {
  /** @type {HTMLInputElement} */
  #size = $("size");
  /** @type {HTMLInputElement} */
  #file = $("file");

  /**
   * @param {Drawing} drawing
   * @param {{complain: (problem: string) => void, brought: () => void, chosen: (tool: Tool) => void}} ends
   *   brought: a picture was laid on the paper
   */
  constructor(drawing, ends) {
    this.drawing = drawing;
    this.ends = ends;
    $("tools").addEventListener("change", (event) => this.#take(/** @type {HTMLInputElement} */ (event.target).value));
    this.#size.addEventListener("input", () => (drawing.size = Number(this.#size.value)));
    $("undo").addEventListener("click", () => drawing.undo());
    $("redo").addEventListener("click", () => drawing.redo());
    $("clear").addEventListener("click", () => drawing.clear());
    $("open").addEventListener("click", () => this.#file.click());
    this.#file.addEventListener("change", () => void this.#lay(this.#file.files));
    addEventListener("dragover", (event) => event.preventDefault()); // else a missed drop leaves the page
    addEventListener("drop", (event) => {
      event.preventDefault();
      void this.#lay(event.dataTransfer?.files);
    });
    addEventListener("paste", (event) => void this.#lay(event.clipboardData?.files));
    this.colours(undefined);
  }

  /** @param {string} tool */
  choose(tool) {
    /** @type {HTMLInputElement} */
    const radio = $(`tool-${tool}`);
    radio.checked = true;
    this.#take(tool);
  }

  /** @param {number} factor */
  resize(factor) {
    this.#size.value = String(Number(this.#size.value) * factor);
    this.drawing.size = Number(this.#size.value);
  }

  /** Pick the nth colour, from 0. @param {number} n */
  colour(n) {
    /** @type {HTMLInputElement | undefined} */ (document.querySelectorAll("#palette input[type=radio]")[n])?.click();
  }

  /** Fill the palette. @param {Suggestions["palette"]} palette */
  colours(palette) {
    const own = Object.assign(document.createElement("input"), { type: "color", value: "#5b4bff", title: "Any colour", ariaLabel: "Any colour" });
    own.addEventListener("input", () => {
      for (const radio of radios) radio.checked = false;
      own.dataset.chosen = "true";
      this.#dip(own.value);
    });
    const found = swatches(palette);
    const radios = found.map(({ name, hex }, i) => {
      const radio = Object.assign(document.createElement("input"), { type: "radio", name: "colour", value: hex, ariaLabel: name, checked: i === 0 });
      radio.title = i < 9 ? `${name} ( ${i + 1} )` : name;
      radio.style.setProperty("--ink", hex);
      radio.addEventListener("change", () => {
        own.dataset.chosen = "false";
        this.#dip(hex);
      });
      return radio;
    });
    $("palette").replaceChildren(...radios, own);
    if (found[0]) this.#dip(found[0].hex);
  }

  /** Mirror what can be undone. */
  refresh() {
    /** @type {HTMLButtonElement} */ ($("undo")).disabled = !this.drawing.canUndo;
    /** @type {HTMLButtonElement} */ ($("redo")).disabled = !this.drawing.canRedo;
  }

  /** @param {string} tool */
  #take(tool) {
    this.drawing.tool = /** @type {Tool} */ (tool);
    $("paper").dataset.tool = tool;
    this.ends.chosen(this.drawing.tool);
  }

  /** @param {string} colour */
  #dip(colour) {
    this.drawing.colour = colour;
    if (this.drawing.tool === "eraser" || this.drawing.tool === "mask") this.choose("brush");
  }

  /** @param {FileList | null | undefined} files */
  async #lay(files) {
    const file = files?.[0];
    if (!file) return;
    try {
      const bitmap = await createImageBitmap(file);
      this.drawing.place(bitmap);
      bitmap.close();
      this.ends.brought();
    } catch {
      this.ends.complain(`${file.name || "That"} is no picture this browser can read`);
    }
    this.#file.value = "";
  }
}
