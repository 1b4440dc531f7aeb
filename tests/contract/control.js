// The remote control of one fal client, the same in Node and in a page: takes commands, reports events.
// The client itself is unmodified; `fetch` and `WebSocket` are only watched, to see what crossed the wire.
"use strict";

/** Bytes a test can recognise without having been sent them; `sha` in test_http.py makes the same. */
function pattern(size) {
  const bytes = new Uint8Array(size);
  for (let i = 0; i < size; i++) bytes[i] = (i * 31) ^ (i >> 8);
  return bytes;
}

/**
 * Values JSON cannot carry: bytes (both ways), undefined, dates, blobs; and for calls files, callbacks, signals.
 * @param report what a {"$reports": kind} becomes, (kind) => function
 */
function fromJson(value, report) {
  if (Array.isArray(value)) return value.map((item) => fromJson(item, report));
  if (value === null || typeof value !== "object") return value;
  if ("$bytes" in value) return Uint8Array.from(atob(value.$bytes), (c) => c.charCodeAt(0));
  if ("$undefined" in value) return undefined;
  if ("$date" in value) return new Date(value.$date);
  if ("$blob" in value) return new Blob([value.$blob]);
  if ("$file" in value) {
    const bytes = typeof value.$file === "number" ? pattern(value.$file) : fromJson(value.$file);
    return new File([bytes], value.name, { type: value.type });
  }
  if ("$reports" in value) return report(value.$reports);
  if ("$abort_after" in value) {
    const controller = new AbortController();
    setTimeout(() => controller.abort(), value.$abort_after);
    return controller.signal;
  }
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, fromJson(item, report)]));
}

function toJson(value) {
  if (value instanceof Uint8Array) {
    let text = "";
    for (const byte of value) text += String.fromCharCode(byte);
    return { $bytes: btoa(text) };
  }
  if (typeof value === "bigint") return value.toString();
  if (Array.isArray(value)) return value.map(toJson);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, toJson(item)]));
}

/** Reports the life of every socket: open (with its URL), out (the exact bytes), in (its kind), closed. */
function watchSockets(emit, open) {
  const Native = globalThis.WebSocket;
  let count = 0;
  globalThis.WebSocket = class extends Native {
    constructor(url, protocols) {
      super(url, protocols);
      const socket = ++count;
      open.add(this);
      this.say = (event, more) => emit({ event, socket, ...more });
      this.addEventListener("open", () => this.say("open", { url: String(url) }));
      this.addEventListener("message", ({ data }) => this.say("in", { text: typeof data === "string" }));
      this.addEventListener("close", ({ code, reason }) => {
        open.delete(this);
        this.say("closed", { code, reason });
      });
    }
    send(data) {
      const text = typeof data === "string";
      const bytes = text ? new TextEncoder().encode(data) : new Uint8Array(data);
      this.say("out", { text, bytes: toJson(bytes) });
      super.send(data);
    }
  };
}

/** Reports each token request; answers it itself where the test hands out a token of its own. */
function watchTokens(emit, forged) {
  const native = globalThis.fetch;
  globalThis.fetch = async (input, init) => {
    const url = String(input.url ?? input);
    if (!new URL(url, "http://localhost").pathname.endsWith("/tokens/")) return native(input, init);
    if (forged.token !== null) return Response.json(forged.token);
    const response = await native(input, init);
    emit({ event: "token", status: response.status, body: init.body });
    return response;
  };
}

/**
 * @param load () => the client module; called once the globals are watched
 * @param emit (event) => void; events are plain JSON
 * @returns (command) => void
 */
function control(load, emit) {
  const open = new Set();
  const forged = { token: null };
  const lives = new Map();
  watchSockets(emit, open);
  watchTokens(emit, forged);
  const library = load();
  const fal = library.fal ?? library;

  const failure = (error) => ({
    kind: error.constructor.name,
    message: error.message,
    status: error.status ?? null,
    body: toJson(error.body ?? null),
    request_id: error.requestId ?? null,
  });
  /** As a page would show a picture: the answer to a plain GET. Of a large one only what it hashes to. */
  const get = async (url) => {
    const response = await fetch(url);
    const bytes = new Uint8Array(await response.arrayBuffer());
    const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    return {
      status: response.status,
      type: response.headers.get("content-type"),
      size: bytes.length,
      sha256: [...hash].map((byte) => byte.toString(16).padStart(2, "0")).join(""),
      bytes: bytes.length < 1e6 ? bytes : null,
    };
  };
  const commands = {
    config: ({ options }) => fal.config(options),
    connect({ live, app, options }) {
      const { token, text, ...rest } = options;
      if (token !== undefined) rest.tokenProvider = async () => token; // 1.9 and later
      if (text) rest.encodeMessage = (input) => JSON.stringify(input); // 1.8.5 and later
      lives.set(
        live,
        fal.realtime.connect(app, {
          onResult: (result) => emit({ event: "result", live, result: toJson(result) }),
          onError: (error) => emit({ event: "error", live, ...failure(error) }),
          ...rest,
        }),
      );
    },
    send: ({ live, input }) => lives.get(live).send(fromJson(input)),
    burst({ live, inputs, every_ms }) {
      if (!every_ms) return inputs.forEach((input) => lives.get(live).send(fromJson(input)));
      inputs.forEach((input, i) => setTimeout(() => lives.get(live).send(fromJson(input)), i * every_ms));
    },
    // Any method of the client by name; the pieces of a stream are reported one by one, its `done()` is the answer.
    async call({ call, method, args }) {
      const report = (kind) => (value) => emit({ event: kind, call, value: toJson(value) });
      try {
        const path = method.split(".");
        const last = path.pop();
        const owner = path.reduce((found, name) => found[name], fal);
        const given = args.map((arg) => fromJson(arg, report));
        let value = method === "get" ? await get(...given) : await owner[last](...given);
        if (value && Symbol.asyncIterator in Object(value)) {
          const done = value.done();
          done.catch(() => {}); // it is awaited below; until then a failure would count as unhandled
          for await (const piece of value) report("piece")(piece);
          value = await done;
        }
        emit({ event: "answer", call, value: toJson(value ?? null) });
      } catch (error) {
        emit({ event: "failure", call, ...failure(error) });
      }
    },
    close: ({ live }) => lives.get(live).close(),
    cut: () => open.forEach((socket) => socket.close(1000)),
    forge: ({ token }) => (forged.token = token),
    // Later than whatever the client's own timers of up to `after_ms` and this turn of the loop report.
    ping: ({ after_ms }) => setTimeout(() => emit({ event: "pong" }), after_ms),
  };
  return ({ do: name, ...rest }) => commands[name](rest);
}

if (typeof module === "object") module.exports = { control };
