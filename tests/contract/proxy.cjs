// node --require ./names.cjs proxy.cjs
// What fal tells developers to run beside their page: @fal-ai/server-proxy, FAL_KEY in the environment. As Express
// has it, with its defaults, and as SvelteKit has it, which hands on an answer as it is, with leave for large files.
// Prints the URL of each. Pages of other origins on localhost may use it, as a developer would allow.
"use strict";
const { Readable } = require("node:stream");
const express = require("express");
const { DEFAULT_ALLOWED_URL_PATTERNS } = require("@fal-ai/server-proxy");
const { createHandler, route } = require("@fal-ai/server-proxy/express");
const { createRequestHandler } = require("@fal-ai/server-proxy/svelte");

const SVELTE = "/svelte";
const MULTIPART = "rest.fal.ai/storage/upload/initiate-multipart\\?storage_type=fal-cdn-v3";

const app = express();
app.use((request, response, next) => {
  response.set("access-control-allow-origin", request.headers.origin ?? "*");
  response.set("access-control-allow-headers", request.headers["access-control-request-headers"] ?? "");
  response.set("access-control-allow-methods", "GET, POST, PUT");
  response.set("access-control-expose-headers", "x-fal-request-id");
  if (request.method === "OPTIONS") return response.sendStatus(204);
  return next();
});

const svelte = createRequestHandler({ allowedUrlPatterns: [...DEFAULT_ALLOWED_URL_PATTERNS, MULTIPART] });
app.all(SVELTE, async (incoming, response) => {
  const { method, headers } = incoming;
  const sent = method === "GET" ? {} : { body: Readable.toWeb(incoming), duplex: "half" };
  const request = new Request(`http://localhost${SVELTE}`, { method, headers, ...sent });
  const answer = await svelte.requestHandler({ request });
  response.writeHead(answer.status, Object.fromEntries(answer.headers));
  Readable.fromWeb(answer.body).pipe(response);
});

app.use(express.json({ limit: "20mb" }));
const handle = createHandler({ allowUnauthorizedRequests: true });
app.all(route, (request, response, next) => handle(request, response, (error) => error && next(error)));

const server = app.listen(0, "127.0.0.1", () => {
  const origin = `http://localhost:${server.address().port}`;
  const urls = { "fal's proxy": origin + route, "fal's proxy in SvelteKit": origin + SVELTE };
  process.stdout.write(JSON.stringify(urls) + "\n");
});
process.stdin.on("close", () => process.exit(0)).resume();
