// @ts-check
/** The live canvas: whatever changes, the newest state goes out, and the picture that comes back is shown. */

import { Drawing } from "./canvas.js";
import { Connection } from "./connection.js";
import { Controls } from "./controls.js";
import { Server } from "./info.js";
import { Meter } from "./meter.js";
import { $ } from "./page.js";
import { Pen } from "./pen.js";
import { Picture } from "./picture.js";
import * as shortcuts from "./shortcuts.js";
import { show, standing } from "./status.js";
import { Tools } from "./tools.js";

const APP = "fal-ai/lcm";
const PROMPTS = [
  "green hills under a night sky",
  "a red circle on a blue background",
  "a yellow star on a purple background",
  "a sunset over the sea",
];
const LARGEST_SIDE = 768;
const SETTLE_MS = 250; // without a change: then the picture is made once more, by the finer decoder

const base = new URL("./", document.baseURI);
const controls = new Controls(change);
const drawing = new Drawing($("paint"), $("mask"), change);
const picture = new Picture($("picture"));
const meter = new Meter();
const tools = new Tools(drawing, { complain, brought: () => setSource("draw"), chosen });
new Pen($("paper"), $("nib"), drawing, () => setSource("draw"));
const server = new Server(base, adapt);
/** @type {import("./connection.js").Phase} */
let phase = { name: "idle" };
let greeted = false;
let count = 0; // pictures shown
let unpacking = 0; // pictures that came and are not shown yet
/** @type {{[key: string]: import("./msgpack.js").Value} | null} */
let asked = null; // the newest request
let settled = false; // it goes, or went, to the finer decoder
let settling = 0; // timer

const connection = new Connection(base, APP, {
  frame,
  picture: (reply, flight) => void shown(reply, flight),
  refused,
  phase: entered,
  key: () => sessionStorage.getItem("key") ?? "",
  patient: () => !server.ready,
});

/** Something the picture depends on is different. */
function change() {
  $("paper").dataset.blank = String(!drawing.marks.painted && !drawing.marks.masked);
  $("unmask").hidden = !drawing.marks.masked;
  controls.masked = drawing.marks.masked;
  controls.fromDrawing = fromDrawing();
  tools.refresh();
  settled = false;
  clearTimeout(settling);
  if (!greeted) return;
  controls.askForWords();
  connection.want();
  meter.superseded = connection.superseded;
  busy();
}

/** Whether a newer picture than the one on show is to come. */
function busy() {
  $("frame").ariaBusy = String(connection.busy || unpacking > 0);
}

/** Whether the drawing has a say. */
function fromDrawing() {
  return source() === "draw" && (drawing.marks.painted || drawing.marks.masked);
}

/** The hand rests: a finer picture of what is shown, where the model has two decoders. */
function settle() {
  if (phase.name !== "open" || connection.busy) return;
  settled = true;
  connection.want();
  busy();
}

async function frame() {
  if (settled && asked) return { ...asked, vae: "full" };
  return (asked = await moment());
}

/** The request for a picture of this moment. */
async function moment() {
  const fields = controls.request();
  if (!fields.prompt) return null;
  const side = Math.min(LARGEST_SIDE, server.info.suggestions?.native_size ?? server.info.models?.[0]?.native ?? 512);
  const request = { ...fields, image_size: { width: side, height: side } };
  // fal's demo apps ask for raw bytes instead of a data URI with this key; image_bytes asks for them too.
  if (!controls.fromDrawing) return { ...request, _force_msgpack: new Uint8Array() };
  const image_bytes = await drawing.jpeg(side);
  if (!drawing.marks.masked) return { ...request, image_bytes };
  return { ...request, image_bytes, mask_bytes: await drawing.maskPng(side), inpaint_mask_only: true };
}

/** @param {any} reply @param {import("./connection.js").Flight | null} flight */
async function shown(reply, flight) {
  const came = performance.now();
  unpacking++;
  try {
    await picture.show(reply.images[0]);
  } catch {
    return complain("The server sent something that is no picture");
  } finally {
    unpacking--;
  }
  if (flight) meter.add(flight.sent, came, performance.now(), reply.timings ?? {});
  controls.forgive();
  complain("");
  const steps = reply.num_inference_steps ?? reply.timings?.steps?.length;
  const { width, height } = picture;
  $("facts").textContent = [`${width} × ${height}`, `seed ${reply.seed}`, steps && `${steps} step${steps > 1 ? "s" : ""}`].filter(Boolean).join(" · ");
  const warnings = (reply.warnings ?? []).join("; ");
  if ($("warnings").textContent !== warnings) $("warnings").textContent = warnings;
  $("picture").ariaLabel = `Picture of: ${controls.prompt.value}`;
  $("frame").dataset.empty = "false";
  $("frame").dataset.count = String(++count);
  $("frame").dataset.settled = String(settled);
  clearTimeout(settling);
  const features = server.info.models?.[0]?.features ?? [];
  if (!settled && features.includes("tiny-vae") && features.includes("full-vae")) settling = setTimeout(settle, SETTLE_MS);
  busy();
  for (const id of ["take", "save"]) /** @type {HTMLButtonElement} */ ($(id)).disabled = false;
}

/** @param {import("./connection.js").Refusal} refusal */
function refused({ reason, error, detail }) {
  complain(controls.blame(detail ?? []) || (detail ? "" : reason || error));
  busy();
}

/** @param {string} problem "" when there is none */
function complain(problem) {
  if ($("error").textContent !== problem) $("error").textContent = problem;
}

/** @param {import("./connection.js").Phase} now */
function entered(now) {
  const before = phase.name;
  phase = now;
  if (now.name === "open" && before !== "open") void server.ask().then(greet);
  if (now.name === "locked") askKey();
  tell();
}

function askKey() {
  if (sessionStorage.getItem("key")) $("key-note").textContent = "The server did not take that key. It is kept in this tab only.";
  /** @type {HTMLDialogElement} */ ($("key-ask")).showModal();
}

/** The first picture: draws the first suggestion without being asked. */
function greet() {
  if (greeted) return;
  greeted = true;
  controls.prompt.value ||= server.info.suggestions?.prompts?.[0] ?? PROMPTS[0] ?? "";
  change();
}

let adapted = "";

/** Take over what the server says it can do, whenever that has changed. */
function adapt() {
  tell();
  const { suggestions, apps } = server.info;
  const now = JSON.stringify([suggestions, apps]);
  if (now === adapted) return;
  adapted = now;
  controls.adapt(apps?.find((app) => app.id === APP)?.schema, suggestions?.max_good_steps);
  if (suggestions?.knows) $("knows").textContent = `It knows ${suggestions.knows}`;
  if (suggestions?.palette) tools.colours(suggestions.palette);
  suggest(suggestions?.prompts ?? PROMPTS);
}

/** @param {string[]} prompts */
function suggest(prompts) {
  const chips = prompts.map((prompt) => {
    const chip = Object.assign(document.createElement("button"), { type: "button", textContent: prompt });
    chip.addEventListener("click", () => {
      controls.prompt.value = prompt;
      change();
    });
    return chip;
  });
  $("chips").replaceChildren(...chips);
}

function tell() {
  show(standing(phase, server.info, connection.waiting, performance.now()));
}

function source() {
  return /** @type {HTMLInputElement} */ ($("source-draw")).checked ? "draw" : "type";
}

/** @param {"draw" | "type"} to */
function setSource(to) {
  if (source() === to) return;
  /** @type {HTMLInputElement} */ ($(`source-${to}`)).checked = true;
  sourceChanged();
}

function sourceChanged() {
  $("paper").dataset.resting = String(source() === "type");
  change();
}

/** Repainting needs something to repaint: on empty paper, the picture itself. @param {string} tool */
function chosen(tool) {
  if (tool === "mask" && !drawing.marks.painted) takePicture();
}

function takePicture() {
  if (!picture.file) return;
  drawing.place(picture.canvas);
  setSource("draw");
}

function save() {
  picture.download(controls.prompt.value.trim().replace(/\W+/g, "-").slice(0, 60) || "picture");
}

suggest(PROMPTS);
change();
for (const to of ["draw", "type"]) $(`source-${to}`).addEventListener("change", sourceChanged);
$("take").addEventListener("click", takePicture);
$("unmask").addEventListener("click", () => drawing.clearMask());
$("save").addEventListener("click", save);
$("veil-now").addEventListener("click", () => connection.open());
$("key-form").addEventListener("submit", () => {
  sessionStorage.setItem("key", /** @type {HTMLInputElement} */ ($("key")).value.trim());
  connection.open();
});
shortcuts.listen(
  {
    "/": () => controls.prompt.focus(),
    d: () => $("paper").focus(),
    b: () => tools.choose("brush"),
    e: () => tools.choose("eraser"),
    f: () => tools.choose("fill"),
    m: () => tools.choose("mask"),
    "[": () => tools.resize(0.8),
    "]": () => tools.resize(1.25),
    delete: () => drawing.clear(),
    backspace: () => drawing.clear(), // what a Mac calls Delete
    t: () => setSource(source() === "draw" ? "type" : "draw"),
    r: () => controls.roll(),
    l: () => controls.toggleLock(),
    u: takePicture,
    s: save,
    ...Object.fromEntries(Array.from({ length: 9 }, (_, n) => [String(n + 1), () => tools.colour(n)])),
  },
  { undo: () => drawing.undo(), redo: () => drawing.redo() },
);
addEventListener("online", () => connection.open());
// The countdown of a retry, and the seconds a slow picture takes; asks why it is slow.
setInterval(() => {
  tell();
  busy();
  if (connection.waiting > 1 && server.ready) void server.ask();
}, 500);
connection.open();
