// @ts-check
/** Says in words how things stand: the pill at the top, and the veil over the picture while something is amiss. */

import { $ } from "./page.js";

/** @typedef {import("./connection.js").Phase} Phase */
/** @typedef {import("./info.js").Info} Info */
/** @typedef {{tone: "good" | "wait" | "bad", text: string, veil?: string, progress?: number | null, retry?: boolean}} Standing */

const PATIENCE_S = 4; // a picture that takes longer deserves a word
/** Of a start, by Progress.stage of the engine: words, and whether its text tells a person more. @type {Record<string, [string, boolean]>} */
const STAGES = {
  import: ["starting up", false],
  download: ["downloading", true],
  load: ["reading its parts", true],
  warm: ["drawing a first picture", false],
};

/**
 * @param {Phase} phase @param {Info} info @param {number} waiting seconds since the frame in flight left
 * @param {number} now performance.now()
 * @returns {Standing} progress: 0..1, or null where its length is unknown
 */
export function standing(phase, info, waiting, now) {
  if (phase.name === "locked") return { tone: "bad", text: "A key is needed", veil: "This server asks for an API key", retry: true };
  if (phase.name === "away") {
    const text = phase.code === 1012 ? "The server is restarting" : "The server is away";
    const seconds = Math.ceil(((phase.retryAt ?? now) - now) / 1000);
    return { tone: "bad", text, veil: `${text}. Trying again ${seconds > 0 ? `in ${seconds} s` : "now"}.`, retry: true };
  }
  const { state = "ready", progress } = info.engine ?? {};
  if (state !== "ready") {
    const text = { starting: "Loading the model", restarting: "The engine is restarting", draining: "The server is restarting" }[state] ?? "The engine has stopped";
    const share = progress?.total ? Math.min(1, progress.done / progress.total) : null;
    const tone = state === "stopped" ? "bad" : "wait";
    const [stage, named] = (progress && STAGES[progress.stage]) ?? [];
    const veil = [text, stage && `: ${stage}`, named && progress?.text && ` (${progress.text})`].filter(Boolean).join("");
    return { tone, text, veil, progress: share };
  }
  if (phase.name === "connecting") return { tone: "wait", text: "Connecting…" };
  if (waiting > PATIENCE_S) return { tone: "wait", text: "Drawing…", veil: `Drawing since ${Math.floor(waiting)} s`, progress: null };
  const model = info.models?.[0];
  const where = [...new Set([model?.name, model?.device])].filter(Boolean).join(" on ");
  return { tone: "good", text: where ? `Live: ${where}` : "Live" };
}

/** @param {Standing} now */
export function show({ tone, text, veil, progress, retry = false }) {
  // A live region is read out at every change: write only what is new.
  if ($("state-text").textContent !== text) $("state-text").textContent = text;
  $("state").dataset.tone = tone;
  $("veil").hidden = !veil;
  if (!veil) return;
  $("veil-text").textContent = veil;
  $("veil-now").hidden = !retry;
  /** @type {HTMLProgressElement} */
  const bar = $("veil-progress");
  bar.hidden = progress === undefined;
  if (typeof progress === "number") bar.value = progress;
  else bar.removeAttribute("value");
}
