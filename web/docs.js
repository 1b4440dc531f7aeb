// @ts-check
/** The API page: what openapi.json says, for people. Nothing here is loaded from anywhere else. */

import { examples, setup } from "./examples.js";

/** @typedef {Record<string, any>} Json */

const base = new URL("./", document.baseURI).href.replace(/\/$/, "");
const $ = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));

/**
 * An element, its attributes, and what is in it.
 * @param {string} name @param {Record<string, string>} [attributes] @param {...(Node | string)} inside
 */
function make(name, attributes = {}, ...inside) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...inside);
  return element;
}

/** "word `code` word" with the code as code. @param {string} text */
function prose(text) {
  return text.split("`").map((part, i) => (i % 2 ? make("code", {}, part) : part));
}

// ---- examples ----

let groups = 0;

/**
 * A row of which one is chosen, the first to begin with.
 * @param {string[]} titles @param {string} label @param {(title: string) => void} chosen
 */
function choice(titles, label, chosen) {
  const name = `choice${++groups}`;
  const row = make("div", { class: "tabs", role: "radiogroup", "aria-label": label });
  titles.forEach((title, i) => {
    const input = make("input", { type: "radio", name, id: `${name}-${i}`, ...(i ? {} : { checked: "" }) });
    input.addEventListener("change", () => chosen(title));
    row.append(input, make("label", { for: input.id }, title));
  });
  return row;
}

/** One of several texts at a time. @param {Record<string, Record<string, string>>} texts by way, then by language */
function example(texts) {
  const text = make("pre", { tabindex: "0" });
  const copy = make("button", { type: "button", class: "copy" }, "Copy");
  copy.hidden = !navigator.clipboard; // over plain HTTP there is none but on this machine
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text.textContent ?? "");
    copy.textContent = "Copied";
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  });
  const ways = Object.keys(texts);
  let [way] = ways;
  let [language] = Object.keys(texts[way]);
  const show = () => (text.textContent = texts[way][language] ?? `There is no ${language} example of this.`);
  show();
  const languages = [...new Set(ways.flatMap((one) => Object.keys(texts[one])))];
  const rows = [choice(languages, "Language", (title) => ((language = title), show()))];
  if (ways.length > 1) rows.unshift(choice(ways, "Way to call", (title) => ((way = title), show())));
  return make("div", { class: "example" }, make("div", { class: "row" }, ...rows), make("div", { class: "code" }, text, copy));
}

/** A small, plausible input: what is required, and what one would want to turn. @param {Json} schema */
function sample(schema) {
  /** @type {Json} */
  const input = {};
  for (const [name, field] of Object.entries(schema.properties)) {
    const wanted = schema.required?.includes(name);
    if (name === "prompt") input[name] = "a red circle on a blue background";
    else if (wanted && field.ui === "image") input[name] = "https://example.com/drawing.png";
    else if (name === "num_inference_steps") input[name] = field.default;
    else if (name === "seed") input[name] = 42;
  }
  return input;
}

// ---- tables ----

/** The type and bounds of a field, in words. @param {Json} field @returns {string} */
function kind(field) {
  if (field.anyOf) return field.anyOf.map(kind).join(" or ");
  if (field.$ref) return field.$ref.split("/").pop();
  if (field.enum) return field.enum.map((/** @type {unknown} */ one) => JSON.stringify(one)).join(" | ");
  if (field.type === "array") return `list of ${kind(field.items ?? {})}`;
  const bounds = [
    field.minimum !== undefined && `≥ ${field.minimum}`,
    field.maximum !== undefined && `≤ ${field.maximum > 2 ** 53 ? "2⁶³−1" : field.maximum}`,
    field.maxLength !== undefined && `≤ ${field.maxLength} characters`,
    field.contentEncoding,
  ].filter(Boolean);
  const type = field.format === "uri" ? "URL or data URI" : (field.type ?? "any");
  return bounds.length ? `${type}, ${bounds.join(", ")}` : type;
}

/** @param {Json} schema @param {string} caption */
function fields(schema, caption) {
  const rows = Object.entries(schema.properties).map(([name, field]) => {
    const must = schema.required?.includes(name);
    const preset = field.default === undefined || field.default === null || field.default === "";
    const state = must ? make("b", {}, "required") : preset ? "" : make("code", {}, JSON.stringify(field.default));
    return make(
      "tr",
      {},
      make("th", { scope: "row" }, make("code", {}, name)),
      make("td", { class: "kind" }, kind(field)),
      make("td", {}, state),
      make("td", {}, ...prose(field.description ?? "")),
    );
  });
  const head = make("tr", {}, ...["Field", "Type", "Default", ""].map((word) => make("th", { scope: "col" }, word)));
  return make("div", { class: "wide" }, make("table", {}, make("caption", {}, caption), make("thead", {}, head), make("tbody", {}, ...rows)));
}

// ---- trying it ----

/** A form that sends one run and shows what comes. @param {string} app @param {Json} input */
function trial(app, input) {
  const text = /** @type {HTMLTextAreaElement} */ (make("textarea", { rows: "8", spellcheck: "false", "aria-label": `Input for ${app}` }));
  text.value = JSON.stringify({ ...input, sync_mode: true }, null, 2);
  const key = /** @type {HTMLInputElement} */ (make("input", { type: "password", placeholder: "id:secret, if keys are needed", "aria-label": "API key", autocomplete: "off" }));
  const send = make("button", { type: "submit" }, "Run");
  const pictures = make("div", { class: "pictures" });
  const answer = make("pre", { class: "answer", role: "status" });
  const form = make("form", { class: "trial" }, text, make("div", { class: "row" }, key, send), pictures, answer);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    send.toggleAttribute("disabled", true);
    pictures.replaceChildren();
    answer.textContent = "…";
    try {
      const response = await fetch(`${base}/${app}`, {
        method: "POST",
        headers: { "content-type": "application/json", ...(key.value && { authorization: `Key ${key.value}` }) },
        body: text.value,
      });
      const body = await response.json();
      for (const image of body.images ?? []) {
        const url = new URL(image.url, base);
        pictures.append(make("img", { src: url.protocol === "data:" ? image.url : url.pathname, alt: "What was drawn", width: String(image.width), height: String(image.height) }));
        if (image.url.length > 80) image.url = `${image.url.slice(0, 80)}…`;
      }
      answer.textContent = `${response.status} ${response.statusText}\n${JSON.stringify(body, null, 2)}`;
    } catch (error) {
      answer.textContent = String(error);
    }
    send.toggleAttribute("disabled", false);
  });
  return make("details", {}, make("summary", {}, "Try it"), form);
}

// ---- the page ----

/** @param {Json} document_ @param {Json} content */
function schemaOf(document_, content) {
  return document_.components.schemas[content["application/json"].schema.$ref.split("/").pop()];
}

/** @param {Json} api @param {string} path @param {Json} item */
function section(api, path, item) {
  const app = path.slice(1);
  const asked = schemaOf(api, item.post.requestBody.content);
  const made = schemaOf(api, item.post.responses["200"].content);
  const input = sample(asked);
  return make(
    "section",
    { id: app },
    make("h2", {}, make("code", {}, app)),
    make("p", {}, asked.title ? make("b", {}, `${asked.title}. `) : "", ...prose(asked.description ?? "")),
    example(examples(app, input, api.servers[0].url)),
    trial(app, input),
    fields(asked, "Input"),
    fields(made, "Output"),
  );
}

/** @param {Json} api */
function shared(api) {
  const apps = new Set(Object.keys(api.paths).filter((path) => api.paths[path]["x-fal-protocol"]).map((path) => path.replace(/\/realtime$/, "")));
  for (const [path, item] of Object.entries(api.paths)) {
    const known = [...apps].some((app) => [app, `${app}/stream`, `${app}/realtime`].includes(path));
    if (known) continue;
    for (const [method, operation] of Object.entries(item)) {
      if (!operation.summary) continue;
      const call = make("code", {}, `${method.toUpperCase()} ${path}`);
      const words = operation.description ? [make("br"), ...prose(operation.description)] : [];
      $("shared").querySelector("tbody")?.append(make("tr", {}, make("td", {}, call), make("td", {}, operation.summary, ...words)));
    }
  }
  $("shared").hidden = false;
  return [...apps];
}

async function main() {
  const response = await fetch(`${base}/openapi.json`);
  if (!response.ok) throw new Error(`openapi.json: ${response.status} ${response.statusText}`);
  const api = await response.json();
  const open = api.security.some((/** @type {Json} */ one) => !Object.keys(one).length);
  $("keys").textContent = open ? "This server asks for no key: any will do." : "This server asks for an API key, id:secret.";
  $("start").append(example({ "": setup(api.servers[0].url) }));
  const apps = shared(api);
  $("apps").replaceChildren(...apps.map((path) => section(api, path, api.paths[path])));
  const links = [["start", "Point your code here"], ...apps.map((path) => [path.slice(1), path.slice(1)]), ["shared", "Tokens, storage, queue"]];
  $("contents").append(...links.map(([id, title]) => make("a", { href: `#${id}` }, title)));
  if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
  document.body.dataset.ready = "true";
}

main().catch((error) => ($("state").textContent = `This page could not be drawn. ${error.message}`));
