// @ts-check
/** Calls in the words of fal's own clients, for one app and input. All plain text. */

/** @typedef {Record<string, unknown>} Input */

/** @param {unknown} value @param {string} pad */
function js(value, pad) {
  return JSON.stringify(value, null, 2)
    .replace(/^( *)"([A-Za-z_]\w*)":/gm, "$1$2:")
    .replaceAll("\n", `\n${pad}`);
}

/** @param {unknown} value @param {string} pad */
function python(value, pad) {
  return JSON.stringify(value, null, 4)
    .replace(/: (true|false|null)(,?)$/gm, (_, word, comma) => `: ${{ true: "True", false: "False", null: "None" }[/** @type {"true"} */ (word)]}${comma}`)
    .replaceAll("\n", `\n${pad}`);
}

/** How clients are told where this server is. @param {string} origin @returns {Record<string, string>} */
export function setup(origin) {
  const host = origin.replace(/^https?:\/\//, "");
  return {
    JavaScript: `// in a page; in Node 22 import a copy of that file, named fal-here.mjs, instead
import { falHere } from "${origin}/web/fal-here.js";
const { fetch } = falHere("${origin}");
const { fal } = await import("@fal-ai/client");
fal.config({ credentials: "id:secret", fetch });`,
    Python: `# curl -O ${origin}/web/fal_here.py
import fal_client
from fal_here import fal_here

fal_here("${origin}")  # the key is FAL_KEY, as ever; FAL_KEY=any:thing where none is needed`,
    "Names and TLS": `# every client and version, not one line of code: fal's host names lead to this server
realtime certs                       # makes the certificates and says what to do with them
RT_TLS_CERT=cert.pem RT_TLS_KEY=key.pem realtime serve --port 443
NODE_EXTRA_CA_CERTS=ca.pem node app.js
SSL_CERT_FILE=ca.pem python app.py`,
    "As the proxy of a page": `import { fal } from "@fal-ai/client";

fal.config({ proxyUrl: "${origin}/api/fal/proxy" });  // run, queue, stream and tokens`,
    "Python, by environment": `# a server with TLS, whatever its name
export FAL_RUN_HOST=${host} FAL_QUEUE_RUN_HOST=${host}/__h/queue.fal.run
export FAL_KEY=id:secret SSL_CERT_FILE=ca.pem
# run, queue and stream; realtime with use_jwt=False; uploads need fal_here or mapped names`,
  };
}

/**
 * @param {string} app @param {Input} input @param {string} origin
 * @returns {Record<string, Record<string, string>>} by way, then by language
 */
export function examples(app, input, origin) {
  const given = { js: js(input, "  "), python: python(input, "    "), json: JSON.stringify(input).replaceAll("'", "'\\''") };
  const curl = `-H "Authorization: Key $FAL_KEY" -H "Content-Type: application/json" \\\n  -d '${given.json}'`;
  const [owner, alias] = app.split("/");
  return {
    Run: {
      JavaScript: `const { data } = await fal.run("${app}", {
  input: ${given.js},
});
console.log(data.images[0].url);`,
      Python: `result = fal_client.run(
    "${app}",
    arguments=${given.python},
)
print(result["images"][0]["url"])`,
      curl: `curl ${origin}/${app} \\\n  ${curl}`,
    },
    Queue: {
      JavaScript: `const { data } = await fal.subscribe("${app}", {
  input: ${given.js},
  logs: true,
  onQueueUpdate: (update) => console.log(update.status, update.logs),
});

// or, to fetch it later:
const { request_id } = await fal.queue.submit("${app}", { input, webhookUrl });
await fal.queue.status("${app}", { requestId: request_id, logs: true });
const result = await fal.queue.result("${app}", { requestId: request_id });`,
      Python: `result = fal_client.subscribe(
    "${app}",
    arguments=${given.python},
    with_logs=True,
    on_queue_update=print,
)

# or, to fetch it later:
handle = fal_client.submit("${app}", arguments=arguments)
for event in handle.iter_events(with_logs=True):
    print(event)
result = handle.get()`,
      curl: `curl ${origin}/__h/queue.fal.run/${app} \\\n  ${curl}
curl -H "Authorization: Key $FAL_KEY" \\
  ${origin}/__h/queue.fal.run/${owner}/${alias}/requests/$REQUEST_ID/status?logs=1`,
    },
    Stream: {
      JavaScript: `const stream = await fal.stream("${app}", {
  input: ${given.js},
});
for await (const event of stream) show(event.images[0].url);  // a preview after each step
const result = await stream.done();`,
      Python: `for event in fal_client.stream(
    "${app}",
    arguments=${given.python},
):
    print(event["images"][0]["url"][:60])  # a preview after each step, then the result`,
      curl: `curl -N ${origin}/${app}/stream \\\n  ${curl}`,
    },
    Realtime: {
      JavaScript: `const connection = fal.realtime.connect("${app}", {
  onResult: (result) => show(result.images[0]),  // url, or content: Uint8Array
  onError: console.error,
});
connection.send(${js(input, "")});  // as often as you like: the newest wins`,
      Python: `with fal_client.realtime("${app}") as connection:
    connection.send(
        ${python(input, "        ")}
    )
    print(connection.recv()["images"][0].keys())`,
    },
  };
}
