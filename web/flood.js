// @ts-check
/**
 * Flood fill on RGBA bytes, by spans. Colours within `tolerance` of the start count as the same, so that
 * the soft edge of a stroke is filled too.
 *
 * @param {Uint8ClampedArray} pixels RGBA, width * height * 4, changed in place
 * @param {number} width
 * @param {number} height
 * @param {number} x start, whole pixels inside the picture
 * @param {number} y
 * @param {readonly [number, number, number]} colour 0..255 each
 * @param {number} [tolerance] largest difference of a channel, 0..255
 * @returns {number} pixels filled
 */
export function flood(pixels, width, height, x, y, colour, tolerance = 48) {
  const start = (y * width + x) * 4;
  const [r, g, b] = [pixels[start] ?? 0, pixels[start + 1] ?? 0, pixels[start + 2] ?? 0];
  const filled = new Uint8Array(width * height);
  /** @param {number} i */
  const same = (i) =>
    !filled[i] &&
    Math.abs((pixels[i * 4] ?? 0) - r) <= tolerance &&
    Math.abs((pixels[i * 4 + 1] ?? 0) - g) <= tolerance &&
    Math.abs((pixels[i * 4 + 2] ?? 0) - b) <= tolerance;

  let count = 0;
  const stack = [y * width + x];
  for (let seed = stack.pop(); seed !== undefined; seed = stack.pop()) {
    if (!same(seed)) continue;
    const row = seed - (seed % width);
    let left = seed;
    let right = seed;
    while (left > row && same(left - 1)) left--;
    while (right < row + width - 1 && same(right + 1)) right++;
    for (let i = left; i <= right; i++) {
      filled[i] = 1;
      pixels.set(colour, i * 4);
      pixels[i * 4 + 3] = 255;
      count++;
    }
    for (const next of [-width, width]) {
      for (let i = left; i <= right; i++) {
        const there = i + next;
        // Only where a span begins: the rest of it is found from its seed.
        if (there >= 0 && there < filled.length && same(there) && (i === left || !same(there - 1))) stack.push(there);
      }
    }
  }
  return count;
}
