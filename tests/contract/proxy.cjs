// node --require ./names.cjs proxy.cjs
// What fal tells developers to run beside their page: Express with @fal-ai/server-proxy and its defaults, FAL_KEY
// in the environment. Prints its URL. Pages of other origins on localhost may use it, as a developer would allow.
"use strict";
const express = require("express");
const { createHandler, route } = require("@fal-ai/server-proxy/express");

const app = express();
app.use((request, response, next) => {
  response.set("access-control-allow-origin", request.headers.origin ?? "*");
  response.set("access-control-allow-headers", request.headers["access-control-request-headers"] ?? "");
  response.set("access-control-allow-methods", "GET, POST, PUT");
  response.set("access-control-expose-headers", "x-fal-request-id");
  if (request.method === "OPTIONS") return response.sendStatus(204);
  return next();
});
app.use(express.json({ limit: "20mb" }));
const handle = createHandler({ allowUnauthorizedRequests: true });
app.all(route, (request, response, next) => handle(request, response, (error) => error && next(error)));

const server = app.listen(0, "127.0.0.1", () => {
  process.stdout.write(`http://localhost:${server.address().port}${route}\n`);
});
process.stdin.on("close", () => process.exit(0)).resume();
