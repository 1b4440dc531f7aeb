// node --experimental-websocket --require ./names.cjs driver.cjs CLIENT [BASE]
// One version of fal's JavaScript client, driven by JSON lines: commands on stdin, events on stdout.
// With BASE, a plain HTTP origin, the documented override web/fal-here.js is applied first.
"use strict";
const readline = require("node:readline");
const { control } = require("./control.js");

const [client, base] = process.argv.slice(2);
const emit = (event) => process.stdout.write(JSON.stringify(event) + "\n");
// The clients warn and debug on stdout, which is ours.
console.log = console.info = console.debug = console.warn = console.error;
process.on("uncaughtException", (error) => emit({ event: "crash", message: String(error.stack) }));
process.on("unhandledRejection", (error) => emit({ event: "crash", message: String(error.stack ?? error) }));

async function main() {
  if (base) (await import("../../web/fal-here.js")).falHere(base);
  const act = control(() => require(client), emit);
  const lines = readline.createInterface({ input: process.stdin });
  lines.on("line", (line) => act(JSON.parse(line)));
  lines.on("close", () => process.exit(0));
  emit({ event: "started" });
}

main();
