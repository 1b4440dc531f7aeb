// node bundle.cjs CLIENT > bundle.js
// Puts one published client, file by file and unchanged, into one script that a page can load: it defines
// `load()`, which is `require(CLIENT)`. What webpack does for every app that uses these clients.
"use strict";
const fs = require("node:fs");
const { createRequire } = require("node:module");

const files = new Map();

function add(file) {
  if (files.has(file)) return;
  const text = fs.readFileSync(file, "utf8");
  const code = file.endsWith(".json") ? `module.exports = ${text}` : text;
  const links = {};
  files.set(file, { code, links });
  const local = createRequire(file);
  for (const [, name] of code.matchAll(/\brequire\(["']([^"']+)["']\)/g)) {
    links[name] = local.resolve(name);
    add(links[name]);
  }
}

const entry = require.resolve(process.argv[2]);
add(entry);
const ids = [...files.keys()];
const modules = [...files.values()].map(({ code, links }) => {
  const numbers = Object.fromEntries(Object.entries(links).map(([name, file]) => [name, ids.indexOf(file)]));
  return `[${JSON.stringify(numbers)}, function (module, exports, require) {${code}\n}]`;
});
process.stdout.write(`
const modules = [${modules.join(",\n")}];
const loaded = [];
function loadModule(id) {
  if (!loaded[id]) {
    loaded[id] = { exports: {} };
    const [links, body] = modules[id];
    body(loaded[id], loaded[id].exports, (name) => loadModule(links[name]));
  }
  return loaded[id].exports;
}
const load = () => loadModule(${ids.indexOf(entry)});
`);
