// @ts-check
/**
 * MessagePack as fal's realtime wire uses it: nil, bool, int, float, str, bin, array, map.
 * Source: the msgpack specification, https://github.com/msgpack/msgpack/blob/master/spec.md
 *
 * Numbers that are safe integers take the smallest int form, others float64; `bigint` is int64/uint64.
 * `undefined` is nil, as in @fal-ai/client. Extension types are refused: nothing on this wire has them.
 */

/** @typedef {null | undefined | boolean | number | bigint | string | Uint8Array} Scalar */
/** @typedef {Scalar | Value[] | {[key: string]: Value}} Value */

const utf8 = new TextEncoder();
const text = new TextDecoder("utf-8", { fatal: true });

/**
 * @param {Value} value
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function encode(value) {
  const out = new Writer();
  write(out, value);
  return out.bytes();
}

/**
 * One value, the whole of `bytes`. Throws RangeError where they end early, go on too long or mean nothing.
 * @param {Uint8Array | ArrayBuffer} bytes
 * @returns {any}
 */
export function decode(bytes) {
  const from = new Reader(bytes instanceof Uint8Array ? bytes : new Uint8Array(bytes));
  const value = read(from);
  if (from.at !== from.bytes.length) throw new RangeError(`msgpack: ${from.bytes.length - from.at} bytes too many`);
  return value;
}

class Writer {
  #buffer = new Uint8Array(1024);
  #view = new DataView(this.#buffer.buffer);
  #at = 0;

  /** Room for `count` more bytes; returns where they start. @param {number} count */
  #take(count) {
    const start = this.#at;
    this.#at += count;
    if (this.#at > this.#buffer.length) {
      const larger = new Uint8Array(Math.max(this.#at, this.#buffer.length * 2));
      larger.set(this.#buffer);
      this.#buffer = larger;
      this.#view = new DataView(larger.buffer);
    }
    return start;
  }

  /** @param {number} byte */
  u8(byte) {
    const at = this.#take(1);
    this.#view.setUint8(at, byte);
  }

  /** @param {number} tag @param {number} n @param {1 | 2 | 4} size */
  tagged(tag, n, size) {
    this.u8(tag);
    const at = this.#take(size);
    if (size === 1) this.#view.setUint8(at, n);
    else if (size === 2) this.#view.setUint16(at, n);
    else this.#view.setUint32(at, n);
  }

  /** @param {number} n */
  f64(n) {
    this.u8(0xcb);
    const at = this.#take(8);
    this.#view.setFloat64(at, n);
  }

  /** @param {bigint} n */
  i64(n) {
    if (n < -(2n ** 63n) || n >= 2n ** 64n) throw new RangeError(`msgpack: ${n} does not fit 64 bits`);
    this.u8(n < 0n ? 0xd3 : 0xcf);
    const at = this.#take(8);
    this.#view.setBigUint64(at, BigInt.asUintN(64, n));
  }

  /** @param {Uint8Array} bytes */
  raw(bytes) {
    const at = this.#take(bytes.length);
    this.#buffer.set(bytes, at);
  }

  bytes() {
    return this.#buffer.slice(0, this.#at);
  }
}

/** @param {Writer} out @param {Value} value */
function write(out, value) {
  if (value === null || value === undefined) out.u8(0xc0);
  else if (value === false) out.u8(0xc2);
  else if (value === true) out.u8(0xc3);
  else if (typeof value === "number") writeNumber(out, value);
  else if (typeof value === "bigint") out.i64(value);
  else if (typeof value === "string") {
    const bytes = utf8.encode(value);
    if (bytes.length < 32) out.u8(0xa0 | bytes.length);
    else writeLength(out, bytes.length, 0xd9);
    out.raw(bytes);
  } else if (value instanceof Uint8Array) {
    writeLength(out, value.length, 0xc4);
    out.raw(value);
  } else if (Array.isArray(value)) {
    if (value.length < 16) out.u8(0x90 | value.length);
    else writeLength(out, value.length, 0xdb);
    for (const item of value) write(out, item);
  } else if (typeof value === "object") {
    const entries = Object.entries(value);
    if (entries.length < 16) out.u8(0x80 | entries.length);
    else writeLength(out, entries.length, 0xdd);
    for (const [key, item] of entries) {
      write(out, key);
      write(out, item);
    }
  } else throw new TypeError(`msgpack: a ${typeof value} cannot be sent`);
}

/** `tag` is that of the 8-bit form; 16 and 32 bits follow it. Arrays and maps have no 8-bit form.
 * @param {Writer} out @param {number} length @param {number} tag */
function writeLength(out, length, tag) {
  if (length < 0x100 && tag !== 0xdb && tag !== 0xdd) out.tagged(tag, length, 1);
  else if (length < 0x10000) out.tagged(tag + 1, length, 2);
  else out.tagged(tag + 2, length, 4);
}

/** @param {Writer} out @param {number} n */
function writeNumber(out, n) {
  if (!Number.isSafeInteger(n) || Object.is(n, -0)) out.f64(n);
  else if (n >= 0x100000000 || n < -0x80000000) out.i64(BigInt(n));
  else if (n >= 0) {
    if (n < 0x80) out.u8(n);
    else if (n < 0x100) out.tagged(0xcc, n, 1);
    else if (n < 0x10000) out.tagged(0xcd, n, 2);
    else out.tagged(0xce, n, 4);
  } else if (n >= -0x20) out.u8(n & 0xff);
  else if (n >= -0x80) out.tagged(0xd0, n, 1);
  else if (n >= -0x8000) out.tagged(0xd1, n, 2);
  else out.tagged(0xd2, n, 4);
}

class Reader {
  at = 0;
  /** @param {Uint8Array} bytes */
  constructor(bytes) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** The position of the next `count` bytes, which are then behind us. @param {number} count */
  skip(count) {
    const start = this.at;
    if (start + count > this.bytes.length) throw new RangeError(`msgpack: ends early, at byte ${this.bytes.length}`);
    this.at += count;
    return start;
  }

  /** @param {number} size */
  uint(size) {
    const at = this.skip(size);
    if (size === 1) return this.view.getUint8(at);
    return size === 2 ? this.view.getUint16(at) : this.view.getUint32(at);
  }

  /** A copy, so that a picture does not keep its whole frame alive. @param {number} length */
  bin(length) {
    const at = this.skip(length);
    return this.bytes.slice(at, at + length);
  }

  /** @param {number} length */
  str(length) {
    const at = this.skip(length);
    return text.decode(this.bytes.subarray(at, at + length));
  }
}

/** @param {bigint} n */
const narrow = (n) => (n >= Number.MIN_SAFE_INTEGER && n <= Number.MAX_SAFE_INTEGER ? Number(n) : n);

/** @param {Reader} from @returns {unknown} */
function read(from) {
  const tag = from.uint(1);
  if (tag < 0x80) return tag;
  if (tag < 0x90) return readMap(from, tag & 0x0f);
  if (tag < 0xa0) return readArray(from, tag & 0x0f);
  if (tag < 0xc0) return from.str(tag & 0x1f);
  if (tag >= 0xe0) return tag - 0x100;
  switch (tag) {
    case 0xc0: return null;
    case 0xc2: return false;
    case 0xc3: return true;
    case 0xc4: return from.bin(from.uint(1));
    case 0xc5: return from.bin(from.uint(2));
    case 0xc6: return from.bin(from.uint(4));
    case 0xca: return from.view.getFloat32(from.skip(4));
    case 0xcb: return from.view.getFloat64(from.skip(8));
    case 0xcc: return from.uint(1);
    case 0xcd: return from.uint(2);
    case 0xce: return from.uint(4);
    case 0xcf: return narrow(from.view.getBigUint64(from.skip(8)));
    case 0xd0: return from.view.getInt8(from.skip(1));
    case 0xd1: return from.view.getInt16(from.skip(2));
    case 0xd2: return from.view.getInt32(from.skip(4));
    case 0xd3: return narrow(from.view.getBigInt64(from.skip(8)));
    case 0xd9: return from.str(from.uint(1));
    case 0xda: return from.str(from.uint(2));
    case 0xdb: return from.str(from.uint(4));
    case 0xdc: return readArray(from, from.uint(2));
    case 0xdd: return readArray(from, from.uint(4));
    case 0xde: return readMap(from, from.uint(2));
    case 0xdf: return readMap(from, from.uint(4));
    default: throw new RangeError(`msgpack: type 0x${tag.toString(16)} at byte ${from.at - 1} is not understood`);
  }
}

/** @param {Reader} from @param {number} length */
function readArray(from, length) {
  const items = [];
  for (let i = 0; i < length; i++) items.push(read(from));
  return items;
}

/** @param {Reader} from @param {number} length */
function readMap(from, length) {
  /** @type {[string, unknown][]} */
  const entries = [];
  for (let i = 0; i < length; i++) entries.push([String(read(from)), read(from)]);
  return Object.fromEntries(entries); // defines own properties, so a key "__proto__" is only a key
}
