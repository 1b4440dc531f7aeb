// Preloaded into Node (--require): this process resolves fal's host names to one local port, as a hosts file and
// port 443 would for the whole machine. Any other address outside loopback is refused, so that a test that
// misses its mapping fails here instead of reaching fal.ai.
"use strict";
const net = require("node:net");
const tls = require("node:tls");

const FAL = /(^|\.)(fal\.(run|ai|media)|falrun\.com)$/;
const LOOPBACK = /^(localhost|127\.\d+\.\d+\.\d+|::1)$/;
const port = Number(process.env.FAL_NAMES_PORT || 0);

for (const library of [net, tls]) {
  const connect = library.connect;
  library.connect = function (options, ...rest) {
    if (typeof options !== "object" || options.path) return connect.call(this, options, ...rest);
    const host = options.host || "localhost";
    if (port && FAL.test(host)) {
      return connect.call(this, { servername: host, ...options, host: "127.0.0.1", port }, ...rest);
    }
    if (!LOOPBACK.test(host)) throw new Error(`a contract test tried to reach ${host}`);
    return connect.call(this, options, ...rest);
  };
}
