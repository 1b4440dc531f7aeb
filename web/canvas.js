// @ts-check
/**
 * The drawing surface: opaque paint, and above it a mask that says where to repaint. Both can be undone.
 * Coordinates are pixels of the surface, SIDE × SIDE, from the top left corner.
 */

import { flood } from "./flood.js";
import { History } from "./history.js";

export const SIDE = 512;
const PAPER = "#ffffff";
const UNDO_BYTES = 64 * 1024 * 1024;
const JPEG_QUALITY = 0.9;

/** @typedef {"brush" | "eraser" | "fill" | "mask"} Tool */
/** @typedef {{x: number, y: number, pressure: number}} Point  pressure 1 = the nominal width */
/** @typedef {{painted: boolean, masked: boolean}} Marks */
/** @typedef {{left: number, top: number, right: number, bottom: number}} Box */
/** @typedef {{layer: CanvasRenderingContext2D, x: number, y: number, before: ImageData, after: ImageData}} Patch */
/**
 * @typedef {object} Edit
 * @property {Patch[]} patches
 * @property {Marks} marksBefore
 * @property {Marks} marksAfter
 * @property {number} bytes
 */

/** @param {HTMLCanvasElement | OffscreenCanvas} canvas */
function context(canvas) {
  // Read back at every fill and undo: keep the pixels where the CPU is.
  const ctx = /** @type {CanvasRenderingContext2D | null} */ (canvas.getContext("2d", { willReadFrequently: true }));
  if (!ctx) throw new Error("this browser has no 2D canvas");
  ctx.lineCap = ctx.lineJoin = "round";
  ctx.imageSmoothingQuality = "high";
  return ctx;
}

/** @param {number} side */
const sheet = (side) => context(Object.assign(document.createElement("canvas"), { width: side, height: side }));

/** Every pixel. @param {CanvasRenderingContext2D} layer */
const all = (layer) => layer.getImageData(0, 0, SIDE, SIDE);

/** Ink of the mask: seen on any colour, opaque everywhere, so that its alpha is the mask. */
function stripes() {
  const ctx = sheet(12);
  ctx.fillStyle = "#ffffff";
  ctx.fillRect(0, 0, 12, 12);
  ctx.strokeStyle = "#5b4bff";
  ctx.lineWidth = 4.2;
  ctx.lineCap = "butt";
  ctx.beginPath();
  for (const x of [-6, 6, 18]) {
    ctx.moveTo(x - 12, 18);
    ctx.lineTo(x + 12, -6);
  }
  ctx.stroke();
  return /** @type {CanvasPattern} */ (ctx.createPattern(ctx.canvas, "repeat"));
}

export class Drawing {
  /** @type {Tool} */
  tool = "brush";
  colour = "#1d1d1f";
  /** Diameter of the brush. */
  size = 28;
  /** @type {Marks} */
  marks = { painted: false, masked: false };
  /** @type {History<Edit>} */
  #history = new History(UNDO_BYTES);
  #before = sheet(SIDE);
  #packed = sheet(SIDE);
  #stripes = stripes();
  /** @type {{layer: CanvasRenderingContext2D, erase: boolean, last: Point, mid: Point, box: Box, marks: Marks} | null} */
  #stroke = null;

  /**
   * @param {HTMLCanvasElement} paint
   * @param {HTMLCanvasElement} mask
   * @param {() => void} changed called after every visible change
   */
  constructor(paint, mask, changed) {
    paint.width = paint.height = mask.width = mask.height = SIDE;
    this.paint = context(paint);
    this.mask = context(mask);
    this.changed = changed;
    this.paint.fillStyle = PAPER;
    this.paint.fillRect(0, 0, SIDE, SIDE);
  }

  get canUndo() {
    return this.#history.canUndo;
  }

  get canRedo() {
    return this.#history.canRedo;
  }

  /** Put the tool down. @param {Point} at */
  begin(at) {
    if (this.#stroke) this.end();
    if (this.tool === "fill") return this.#fill(at);
    // The eraser takes away what it is set down on: a mask if there is one, else paint.
    const erase = this.tool === "eraser";
    const onMask = this.tool === "mask" || (erase && this.#masked(at));
    const layer = onMask ? this.mask : this.paint;
    this.#keep(layer);
    const marks = { ...this.marks };
    this.#stroke = { layer, erase, last: at, mid: at, box: { left: at.x, top: at.y, right: at.x, bottom: at.y }, marks };
    if (onMask) this.marks = { ...marks, masked: true };
    else if (!erase) this.marks = { ...marks, painted: true };
    this.#ink(layer, erase);
    this.#line(at, at, at);
  }

  /** Move the tool on. @param {Point} to */
  extend(to) {
    const stroke = this.#stroke;
    if (!stroke) return;
    // Curves through the middles of the segments: smooth even when a fast hand leaves few points.
    const mid = { x: (stroke.last.x + to.x) / 2, y: (stroke.last.y + to.y) / 2, pressure: to.pressure };
    this.#line(stroke.mid, stroke.last, mid);
    stroke.last = to;
    stroke.mid = mid;
  }

  /** Lift the tool. */
  end() {
    const stroke = this.#stroke;
    if (!stroke) return;
    this.#line(stroke.mid, stroke.last, stroke.last);
    this.#stroke = null;
    if (stroke.layer === this.mask && stroke.erase) this.marks = { ...this.marks, masked: this.#anyMask() };
    this.#record(this.#within(stroke.layer, stroke.box), stroke.marks);
  }

  /** White paper, no mask. One step to undo. */
  clear() {
    const layers = this.marks.masked ? [this.paint, this.mask] : [this.paint];
    this.#whole(layers, { painted: false, masked: false }, () => {
      this.mask.clearRect(0, 0, SIDE, SIDE);
      this.paint.globalCompositeOperation = "source-over";
      this.paint.fillStyle = PAPER;
      this.paint.fillRect(0, 0, SIDE, SIDE);
    });
  }

  clearMask() {
    if (!this.marks.masked) return;
    this.#whole([this.mask], { ...this.marks, masked: false }, () => this.mask.clearRect(0, 0, SIDE, SIDE));
  }

  /** Lay a picture over the whole paper, its edges cut where the shape differs. @param {ImageBitmap | HTMLCanvasElement} picture */
  place(picture) {
    const scale = SIDE / Math.min(picture.width, picture.height);
    const [width, height] = [picture.width * scale, picture.height * scale];
    this.#whole([this.paint], { ...this.marks, painted: true }, () => {
      this.paint.globalCompositeOperation = "source-over";
      this.paint.drawImage(picture, (SIDE - width) / 2, (SIDE - height) / 2, width, height);
    });
  }

  undo() {
    if (this.#stroke) this.end();
    const edit = this.#history.undo();
    if (edit) this.#apply(edit, "before", edit.marksBefore);
  }

  redo() {
    const edit = this.#history.redo();
    if (edit) this.#apply(edit, "after", edit.marksAfter);
  }

  /** The drawing as a JPEG, `side` pixels square. @param {number} side */
  jpeg(side) {
    return this.#pack(side, "image/jpeg", (ctx) => ctx.drawImage(this.paint.canvas, 0, 0, side, side));
  }

  /** The mask as a PNG, white where to repaint, black elsewhere. @param {number} side */
  maskPng(side) {
    return this.#pack(side, "image/png", (ctx) => {
      ctx.fillStyle = "#fff";
      ctx.fillRect(0, 0, side, side);
      ctx.globalCompositeOperation = "destination-in";
      ctx.drawImage(this.mask.canvas, 0, 0, side, side);
      ctx.globalCompositeOperation = "destination-over";
      ctx.fillStyle = "#000";
      ctx.fillRect(0, 0, side, side);
    });
  }

  /**
   * @param {number} side @param {string} type @param {(ctx: CanvasRenderingContext2D) => void} draw
   * @returns {Promise<Uint8Array<ArrayBuffer>>}
   */
  async #pack(side, type, draw) {
    const ctx = this.#packed;
    ctx.canvas.width = ctx.canvas.height = side; // also resets the context
    ctx.imageSmoothingQuality = "high";
    draw(ctx);
    const blob = await new Promise((done) => ctx.canvas.toBlob(done, type, JPEG_QUALITY));
    if (!blob) throw new Error(`this browser cannot write ${type}`);
    return new Uint8Array(await blob.arrayBuffer());
  }

  /** @param {CanvasRenderingContext2D} layer @param {boolean} erase */
  #ink(layer, erase) {
    layer.globalCompositeOperation = erase && layer === this.mask ? "destination-out" : "source-over";
    layer.strokeStyle = layer === this.mask ? this.#stripes : erase ? PAPER : this.colour;
  }

  /** @param {Point} from @param {Point} by @param {Point} to */
  #line(from, by, to) {
    const stroke = this.#stroke;
    if (!stroke) return;
    const { layer, box } = stroke;
    layer.lineWidth = Math.max(1, this.size * to.pressure);
    layer.beginPath();
    layer.moveTo(from.x, from.y);
    layer.quadraticCurveTo(by.x, by.y, to.x + 0.01, to.y); // a line without length would not be drawn
    layer.stroke();
    const reach = layer.lineWidth / 2 + 2;
    for (const p of [from, by, to]) {
      box.left = Math.min(box.left, p.x - reach);
      box.top = Math.min(box.top, p.y - reach);
      box.right = Math.max(box.right, p.x + reach);
      box.bottom = Math.max(box.bottom, p.y + reach);
    }
    this.changed();
  }

  /** @param {Point} at */
  #fill(at) {
    const [x, y] = [Math.floor(at.x), Math.floor(at.y)];
    if (x < 0 || y < 0 || x >= SIDE || y >= SIDE) return;
    const n = parseInt(this.colour.slice(1), 16);
    this.#whole([this.paint], { ...this.marks, painted: true }, () => {
      const pixels = all(this.paint);
      flood(pixels.data, SIDE, SIDE, x, y, [n >> 16, (n >> 8) & 255, n & 255]);
      this.paint.putImageData(pixels, 0, 0);
    });
  }

  /** An edit of whole layers. @param {CanvasRenderingContext2D[]} layers @param {Marks} marks @param {() => void} draw */
  #whole(layers, marks, draw) {
    if (this.#stroke) this.end();
    const marksBefore = this.marks;
    const before = layers.map(all);
    draw();
    this.marks = marks;
    this.#record(layers.map((layer, i) => ({ layer, x: 0, y: 0, before: before[i], after: all(layer) })), marksBefore);
  }

  /** Remember a layer as it is, before an edit. @param {CanvasRenderingContext2D} layer */
  #keep(layer) {
    this.#before.globalCompositeOperation = "copy";
    this.#before.drawImage(layer.canvas, 0, 0);
  }

  /** What a stroke changed; nothing off the paper. @param {CanvasRenderingContext2D} layer @param {Box} box @returns {Patch[]} */
  #within(layer, box) {
    const x = Math.max(0, Math.floor(box.left));
    const y = Math.max(0, Math.floor(box.top));
    const width = Math.min(SIDE, Math.ceil(box.right)) - x;
    const height = Math.min(SIDE, Math.ceil(box.bottom)) - y;
    if (width <= 0 || height <= 0) return [];
    return [{ layer, x, y, before: this.#before.getImageData(x, y, width, height), after: layer.getImageData(x, y, width, height) }];
  }

  /** @param {Patch[]} patches @param {Marks} marksBefore */
  #record(patches, marksBefore) {
    const bytes = patches.reduce((sum, { before }) => sum + 2 * before.data.length, 0);
    if (patches.length) this.#history.add({ patches, marksBefore, marksAfter: { ...this.marks }, bytes });
    this.changed();
  }

  /** @param {Edit} edit @param {"before" | "after"} side @param {Marks} marks */
  #apply(edit, side, marks) {
    for (const patch of edit.patches) patch.layer.putImageData(patch[side], patch.x, patch.y);
    this.marks = { ...marks };
    this.changed();
  }

  /** @param {Point} at */
  #masked(at) {
    return this.marks.masked && (this.mask.getImageData(at.x, at.y, 1, 1).data[3] ?? 0) > 0;
  }

  #anyMask() {
    const { data } = this.mask.getImageData(0, 0, SIDE, SIDE);
    for (let i = 3; i < data.length; i += 4) if (data[i]) return true;
    return false;
  }
}
