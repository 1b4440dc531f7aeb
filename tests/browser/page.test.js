// node --test: the modules of the canvas that need no browser.
import assert from "node:assert/strict";
import { test } from "node:test";
import { falHere, here } from "../../web/fal-here.js";
import { flood } from "../../web/flood.js";
import { History } from "../../web/history.js";
import { standing } from "../../web/status.js";

const WHITE = [255, 255, 255, 255];
const picture = (rows) => {
  const ink = { ".": WHITE, "#": [0, 0, 0, 255], "-": [220, 220, 220, 255] };
  return new Uint8ClampedArray(rows.flatMap((row) => [...row].flatMap((c) => ink[c])));
};
const red = (pixels, width) => {
  const marks = Array.from({ length: pixels.length / 4 }, (_, i) => (pixels[i * 4] === 200 && pixels[i * 4 + 1] === 0 ? "o" : "."));
  return marks.join("").match(new RegExp(`.{${width}}`, "g"));
};

test("a fill goes round corners and stops at a line", () => {
  const pixels = picture(["...#.", ".#.#.", ".#.#.", ".###.", "....."]);
  assert.equal(flood(pixels, 5, 5, 2, 2, [200, 0, 0]), 17);
  assert.deepEqual(red(pixels, 5), ["ooo.o", "o.o.o", "o.o.o", "o...o", "ooooo"]);
  const closed = picture(["#####", "#...#", "#.#.#", "#...#", "#####"]);
  assert.equal(flood(closed, 5, 5, 1, 1, [200, 0, 0]), 8);
  assert.deepEqual(red(closed, 5), [".....", ".ooo.", ".o.o.", ".ooo.", "....."]);
});

test("a fill takes the soft edge of a line with it, and ends on its own colour", () => {
  const pixels = picture([".-#", ".-#"]);
  assert.equal(flood(pixels, 3, 2, 0, 0, [200, 0, 0]), 4);
  const same = new Uint8ClampedArray([...Array(16).keys()].flatMap(() => [200, 0, 0, 255]));
  assert.equal(flood(same, 4, 4, 3, 3, [200, 0, 0]), 16);
});

test("undo and redo walk the edits; a new one forgets what was undone", () => {
  const history = new History(100);
  const [a, b, c] = [{ bytes: 40 }, { bytes: 40 }, { bytes: 40 }];
  history.add(a);
  history.add(b);
  assert.equal(history.undo(), b);
  assert.equal(history.redo(), b);
  assert.equal(history.redo(), undefined);
  history.undo();
  history.add(c);
  assert.equal(history.canRedo, false);
  assert.deepEqual([history.undo(), history.undo(), history.undo()], [c, a, undefined]);
});

test("past its budget history drops the oldest, never the newest", () => {
  const history = new History(100);
  const edits = [{ bytes: 60 }, { bytes: 60 }, { bytes: 500 }];
  for (const edit of edits) history.add(edit);
  assert.equal(history.undo(), edits[2]);
  assert.equal(history.undo(), undefined);
});

test("fal's hosts lead here, others stay", () => {
  const at = (url) => here(url, "http://127.0.0.1:8000");
  assert.equal(at("https://fal.run/fal-ai/lcm"), "http://127.0.0.1:8000/__h/fal.run/fal-ai/lcm");
  assert.equal(at("wss://fal.run/fal-ai/lcm/realtime?a=b"), "ws://127.0.0.1:8000/__h/fal.run/fal-ai/lcm/realtime?a=b");
  assert.equal(at("https://rest.alpha.fal.ai/tokens/"), "http://127.0.0.1:8000/__h/rest.alpha.fal.ai/tokens/");
  assert.equal(
    at("wss://110602490-lcm-sd15-i2i.gateway.alpha.fal.ai/ws"),
    "ws://127.0.0.1:8000/__h/110602490-lcm-sd15-i2i.gateway.alpha.fal.ai/ws",
  );
  assert.equal(here("wss://fal.run:443/x", "https://draw.example/base/"), "wss://draw.example/base/__h/fal.run/x");
  for (const other of ["https://notfal.run/", "https://fal.run.example/", "https://example.com/?u=https://fal.run/", "/local"]) {
    assert.equal(at(other), other);
  }
});

test("falHere takes over fetch and WebSocket, and gives them back", async () => {
  const before = { fetch: globalThis.fetch, WebSocket: globalThis.WebSocket };
  const asked = [];
  globalThis.fetch = async (input, init) => asked.push([input.url ?? input, init?.method ?? input.method]);
  globalThis.WebSocket = class {
    static OPEN = 1;
    constructor(url) {
      this.url = url;
    }
  };
  const fakes = { fetch: globalThis.fetch, WebSocket: globalThis.WebSocket };
  const { fetch, undo } = falHere("http://127.0.0.1:8000");
  await globalThis.fetch("https://fal.run/a", { method: "POST" });
  await fetch(new URL("https://queue.fal.run/b"));
  await fetch(new Request("https://rest.fal.ai/c", { method: "PUT", body: "x", duplex: "half" }));
  assert.deepEqual(asked, [
    ["http://127.0.0.1:8000/__h/fal.run/a", "POST"],
    ["http://127.0.0.1:8000/__h/queue.fal.run/b", undefined],
    ["http://127.0.0.1:8000/__h/rest.fal.ai/c", "PUT"],
  ]);
  assert.equal(new globalThis.WebSocket("wss://fal.run/x/realtime").url, "ws://127.0.0.1:8000/__h/fal.run/x/realtime");
  assert.equal(globalThis.WebSocket.OPEN, 1);
  undo();
  assert.equal(globalThis.fetch, fakes.fetch);
  assert.equal(globalThis.WebSocket, fakes.WebSocket);
  Object.assign(globalThis, before);
});

test("the worst that is known is what is said", () => {
  const ready = { engine: { state: "ready" }, models: [{ name: "embedded", device: "cpu" }] };
  assert.equal(standing({ name: "open" }, ready, 0, 0).text, "Live: embedded on cpu");
  assert.equal(standing({ name: "open" }, {}, 0, 0).text, "Live");
  const away = standing({ name: "away", code: 1012, retryAt: 2400 }, ready, 0, 0);
  assert.deepEqual([away.text, away.veil], ["The server is restarting", "The server is restarting. Trying again in 3 s."]);
  const loading = { engine: { state: "starting", progress: { stage: "load", done: 1, total: 4, text: "UNet" } } };
  const wait = standing({ name: "open" }, loading, 30, 0);
  assert.deepEqual([wait.text, wait.veil, wait.progress], ["Loading the model", "Loading the model: reading its parts (UNet)", 0.25]);
  assert.equal(standing({ name: "open" }, ready, 9.5, 0).veil, "Drawing since 9 s");
  assert.equal(standing({ name: "locked" }, ready, 0, 0).tone, "bad");
});

test("the stages of a start are told in words a person understands", () => {
  const said = (state, stage, text) => standing({ name: "open" }, { engine: { state, progress: { stage, done: 0, total: 1, text } } }, 0, 0).veil;
  assert.equal(said("starting", "import", "diffusers, transformers"), "Loading the model: starting up");
  assert.equal(said("starting", "download", "some/model"), "Loading the model: downloading (some/model)");
  assert.equal(said("restarting", "warm", "4 at once"), "The engine is restarting: drawing a first picture");
  assert.equal(said("starting", "load", ""), "Loading the model: reading its parts");
  assert.equal(standing({ name: "open" }, { engine: { state: "starting", progress: null } }, 0, 0).veil, "Loading the model");
});
