"""web/worker/preload.py in the real Pyodide: a start from a snapshot compiles nothing of the program."""

from __future__ import annotations

from base64 import b64encode

import build
from tests.unit.web.javascript import javascript

# Starts twice, as the worker does. Gives the names of what the second start compiled until the shell was imported.
TWO_STARTS = """
    process.on("uncaughtException", ({ message }) => { console.error(message); process.exit(1); });
    const start = async (options) => {
        const python = await pyodide.loadPyodide({ env: { HOME: "/home/pyodide", PYTHONHASHSEED: "0" }, ...options });
        python.FS.writeFile("/app.zip", Buffer.from(argument, "base64"));
        return python;
    };
    const first = await start({ _makeSnapshot: true });
    first.runPython("import sys; sys.path.insert(0, '/app.zip'); import preload");
    const again = await start({ _loadSnapshot: first.makeMemorySnapshot() });
    again.registerJsModule("convergence_platform", await primitives.createCrypto());
    again.registerJsModule("convergence_shell", {});
    const compiled = again.runPython(`
        import sys
        compiled = []
        sys.addaudithook(lambda event, args: compiled.append(str(args[1])) if event == "compile" else None)
        compiled
    `);
    again.pyimport("random").seed();
    const host = again.pyimport("node_host");
    return { compiled: compiled.toJs(), started: typeof host.start };
"""


def test_a_start_from_a_snapshot_compiles_nothing_of_the_program() -> None:
    archive = b64encode(build.zip_bytes(build.python_sources()["app.zip"])).decode()
    modules = {"pyodide": "../node_modules/pyodide/pyodide.mjs", "primitives": "worker/crypto.js"}
    said = javascript(TWO_STARTS, archive, timeout=300, **modules)
    assert said == {"compiled": [], "started": "function"}
