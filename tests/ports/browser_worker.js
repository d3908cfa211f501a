/** Runs suite.py in a module worker, with the backend that the node has there, and posts what came of it. */

import { loadPyodide } from "/pyodide/pyodide.mjs";
import { createCrypto } from "../../web/worker/crypto.js";

run().then(
  (results) => self.postMessage({ results }),
  (error) => self.postMessage({ error: String(error) }),
);

async function run() {
  const [pyodide, crypto, archive] = await Promise.all([
    loadPyodide({ indexURL: "/pyodide/" }),
    createCrypto(),
    fetch("/code.zip").then((answer) => answer.arrayBuffer()),
  ]);
  pyodide.registerJsModule("convergence_platform", crypto);
  pyodide.unpackArchive(archive, "zip", { extractDir: "/code" });
  const results = await pyodide.runPythonAsync(`
import asyncio, json, sys
sys.path[:0] = ["/code", "/code/tests/ports"]
import suite
from crypto import BrowserCrypto, BrowserRng

async def main():
    crypto, rng = BrowserCrypto(), BrowserRng()
    results = suite.run(crypto)
    # A millisecond lets WebCrypto answer; zero lets an answer that is there be delivered.
    for pause in (0, 0.001):
        results.append(await suite.run_with_pauses(crypto, lambda: asyncio.sleep(pause)))
    results.append(await suite.run_with_streams(crypto, lambda: asyncio.sleep(0)))
    # Python's memory moves when it grows, and with it what JavaScript sees of it.
    whole, cut = crypto.aes_ctr(bytes(16)).crypt(bytes(20_000)), crypto.aes_ctr(bytes(16))
    first = cut.crypt(bytes(7_000))
    grown = bytearray(128 << 20)
    results.append(("aes_ctr_outlives_growing_memory", first + cut.crypt(bytes(13_000)) == whole, str(len(grown))))
    sizes = [len(rng.random(size)) for size in (0, 1, 32, 200_000)]
    results.append(("randomness", sizes == [0, 1, 32, 200_000] and rng.random(32) != rng.random(32), str(sizes)))
    return json.dumps(results)

await main()
`);
  return JSON.parse(results);
}
