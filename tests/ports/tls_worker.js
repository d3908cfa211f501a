/** Runs tls_suite.py in a module worker, with the engine that the node has there, and posts what came of it. */

import { loadPyodide } from "/pyodide/pyodide.mjs";
import { createTls } from "../../web/worker/tls.js";

run().then(
  (results) => self.postMessage({ results }),
  (error) => self.postMessage({ error: String(error) }),
);

async function run() {
  const read = async (name) => new Uint8Array(await (await fetch(`/${name}`)).arrayBuffer());
  const [pyodide, archive] = await Promise.all([loadPyodide({ indexURL: "/pyodide/" }), read("code.zip")]);
  pyodide.unpackArchive(archive, "zip", { extractDir: "/code" });
  pyodide.registerJsModule("page", { createTls: () => createTls(read), broken: () => createTls(failing), exchange });
  const told = await pyodide.runPythonAsync(`
import sys
sys.path[:0] = ["/code", "/code/tests/ports"]
import tls_browser
await tls_browser.run()
`);
  return JSON.parse(told);
}

const failing = () => Promise.reject(new Error("this file is not there"));

/** What the server of this path answers to these bytes; undefined: it sends no more. */
function exchange(path, data) {
  const request = new XMLHttpRequest();
  request.open("POST", path, false);
  request.responseType = "arraybuffer";
  request.send(data);
  return request.status === 410 ? undefined : new Uint8Array(request.response);
}
