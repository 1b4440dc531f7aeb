// node --test: lines of hex on stdin-free argv[2] file, as Python's msgpack wrote them, come back the same.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { decode, encode } from "../../web/msgpack.js";

const hex = (bytes) => Buffer.from(bytes).toString("hex");
const bytes = (text) => new Uint8Array(Buffer.from(text, "hex"));

test("what Python packed is packed the same after reading", () => {
  const vectors = readFileSync(process.env.VECTORS, "utf8").split("\n").filter(Boolean);
  assert.ok(vectors.length > 100);
  for (const each of vectors) assert.equal(hex(encode(decode(bytes(each)))), each);
});

test("frames of fal's own client are read", () => {
  // fal-protocol 1.4: captured from @fal-ai/client 1.10.1
  assert.deepEqual(decode(bytes("82a670726f6d7074a161a47365656401")), { prompt: "a", seed: 1 });
  const picture = decode(bytes("82a670726f6d7074a161ab696d6167655f6279746573c403ffd8ff"));
  assert.deepEqual(picture.image_bytes, new Uint8Array([255, 216, 255]));
});

test("undefined is nil, floats stay floats", () => {
  assert.equal(hex(encode({ a: undefined })), "81a161c0");
  assert.equal(hex(encode(0.5)), "cb3fe0000000000000");
  assert.equal(hex(encode(-0)), "cb8000000000000000");
  assert.equal(decode(bytes("ca3f000000")), 0.5);
  assert.ok(Number.isNaN(decode(encode(NaN))));
});

test("integers past 2**53 are bigints", () => {
  assert.equal(decode(bytes("cfffffffffffffffff")), 2n ** 64n - 1n);
  assert.equal(hex(encode(2n ** 64n - 1n)), "cfffffffffffffffff");
  assert.equal(decode(bytes("d38000000000000000")), -(2n ** 63n));
  assert.throws(() => encode(2n ** 64n), RangeError);
});

test("a key __proto__ is only a key", () => {
  const value = decode(bytes("81a95f5f70726f746f5f5f81a178c3"));
  assert.equal(Object.getPrototypeOf(value), Object.prototype);
  assert.deepEqual(Object.keys(value), ["__proto__"]);
});

test("bytes that end early, go on or mean nothing are errors", () => {
  for (const bad of ["", "92c0", "a3616", "c4", "c403ff", "dd7fffffff", "c0c0", "c1", "d40000", "a1ff"]) {
    assert.throws(() => decode(bytes(bad)), (error) => error instanceof RangeError || error instanceof TypeError, bad);
  }
});

test("what is no value is refused", () => {
  assert.throws(() => encode({ f() {} }), TypeError);
});

test("a view into a larger buffer is read as itself, and pictures are copies", () => {
  const whole = bytes("ffff93c4020102c3c0ff");
  const value = decode(whole.subarray(2, 9));
  assert.deepEqual(value, [new Uint8Array([1, 2]), true, null]);
  assert.equal(value[0].buffer.byteLength, 2);
});
