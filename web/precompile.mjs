/**
 * Bytecode for the browser: `node web/precompile.mjs FOLDER`; build.py calls it.
 *
 * Does: add to FOLDER/app.zip the bytecode of every module in it, and write FOLDER/python_stdlib.zip, Pyodide's own
 * library with the bytecode of those modules that the node loads. Pyodide compiles, so that bytecode and interpreter fit.
 * Does not: depend on the machine. Names, hash seed and zlib are Pyodide's, too. Sources stay beside their bytecode.
 */

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { loadPyodide } from "../node_modules/pyodide/pyodide.mjs";

process.on("uncaughtException", (error) => {
  console.error(error.message); // Node's own report would show a line of Pyodide, which is all of it
  process.exit(1);
});

const [folder] = process.argv.slice(2);
const pyodide = await loadPyodide({ env: { HOME: "/home/pyodide", PYTHONHASHSEED: "0" } });
pyodide.FS.writeFile("/app.zip", await readFile(join(folder, "app.zip"))); // its place in the worker, too
const library = pyodide.runPython(`
import sys

sys.path.insert(0, "/app.zip")
import convergence.node  # for what it imports of the library

loaded = {getattr(module, "__file__", None) for module in sys.modules.values()}
library = next(path for path in sys.path if path.endswith("/python314.zip"))

import importlib.util
import marshal
import zipfile


def bytecode(path, source):
    """PEP 552, unchecked: an import does not look at the source."""
    code = compile(source, path, "exec", dont_inherit=True)
    head = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + importlib.util.source_hash(source)
    return head + marshal.dumps(code)


def add_bytecode(path, wanted):
    with zipfile.ZipFile(path, "a") as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".py") and wanted(f"{path}/{name}"):
                data = bytecode(f"{path}/{name}", archive.read(name))
                archive.writestr(zipfile.ZipInfo(f"{name}c"), data, zipfile.ZIP_DEFLATED)


add_bytecode("/app.zip", lambda path: True)
add_bytecode(library, loaded.__contains__)
library
`);
await writeFile(join(folder, "app.zip"), pyodide.FS.readFile("/app.zip"));
await writeFile(join(folder, "python_stdlib.zip"), pyodide.FS.readFile(library));
