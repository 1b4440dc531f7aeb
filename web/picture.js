// @ts-check
/** The answer: shows pictures in the order they came, and keeps the last one's file for download. */

/** Small pictures are enlarged here, smoothly: a browser's own scaling of a canvas shows blocks. */
const SHOWN_SIDE = 512;

export class Picture {
  /** Pixels of the picture on show. */
  width = 0;
  height = 0;
  /** The file of the picture on show. @type {Blob | null} */
  file = null;
  /** @type {Promise<void>} */
  #last = Promise.resolve();

  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    this.ctx = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { alpha: false }));
  }

  /**
   * Resolves when the picture is on the canvas. Rejects when the bytes are no picture.
   * @param {{content?: Uint8Array<ArrayBuffer>, url?: string, content_type?: string}} image of a reply
   */
  show(image) {
    const file = fileOf(image);
    const shown = this.#last.then(async () => {
      const bitmap = await createImageBitmap(file);
      this.width = bitmap.width;
      this.height = bitmap.height;
      const scale = Math.max(1, SHOWN_SIDE / Math.max(bitmap.width, bitmap.height));
      const [width, height] = [Math.round(bitmap.width * scale), Math.round(bitmap.height * scale)];
      // Setting a size clears the canvas; it is drawn again before the browser paints.
      if (this.canvas.width !== width) this.canvas.width = width;
      if (this.canvas.height !== height) this.canvas.height = height;
      this.ctx.imageSmoothingQuality = "high";
      this.ctx.drawImage(bitmap, 0, 0, width, height);
      bitmap.close();
      this.file = file;
    });
    this.#last = shown.catch(() => undefined);
    return shown;
  }

  /** Save the file as it came. @param {string} name without extension */
  download(name) {
    if (!this.file) return;
    const extension = this.file.type === "image/png" ? "png" : this.file.type === "image/webp" ? "webp" : "jpg";
    const url = URL.createObjectURL(this.file);
    Object.assign(document.createElement("a"), { href: url, download: `${name}.${extension}` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000); // after the browser has opened it
  }
}

/** @param {{content?: Uint8Array<ArrayBuffer>, url?: string, content_type?: string}} image */
function fileOf({ content, url = "", content_type }) {
  if (content instanceof Uint8Array) return new Blob([content], { type: content_type ?? "image/jpeg" });
  const [, type, base64] = /^data:([^;,]+);base64,(.*)$/s.exec(url) ?? [];
  if (!base64) throw new TypeError("the reply holds no picture");
  return new Blob([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], { type });
}
