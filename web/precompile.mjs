/**
 * Python for the browser: `node web/precompile.mjs FOLDER`; build.py calls it.
 *
 * Does: make FOLDER/app.zip and FOLDER/tor.zip smaller by leaving out comments, docstrings and functions' annotations;
 * write FOLDER/python_stdlib.zip, Pyodide's own library with bytecode in place of those modules that the node loads, and
 * without what no page can use. Pyodide does both, so that bytecode and interpreter fit.
 * Does not: depend on the machine (names, hash seed and zlib are Pyodide's, too), or move a line: tracebacks stay true.
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
const archives = ["app.zip", "tor.zip"]; // each at the place that it has in the worker, too
for (const name of archives) pyodide.FS.writeFile(`/${name}`, await readFile(join(folder, name)));
const library = pyodide.runPython(`
import sys

sys.path.insert(0, "/app.zip")
import convergence.node  # for what it imports of the library

loaded = {getattr(module, "__file__", None) for module in sys.modules.values()}
library = next(path for path in sys.path if path.endswith("/python314.zip"))

import ast
import importlib.util
import io
import marshal
import tokenize
import zipfile


def lean(source):
    """Without comments, docstrings and what functions say of their types. Empty lines and '"-"' stand for them, so that
    all else stays in its line."""
    lines = source.decode().split("\\n")
    for token in tokenize.generate_tokens(io.StringIO(source.decode()).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip()
    lines = [line.encode() for line in lines]
    cuts = []  # row, its columns from and to, what stands there instead

    def cut(row, begin, annotation):
        if annotation.end_lineno == row:  # else it stays
            cuts.append((row - 1, begin, annotation.end_col_offset, b""))

    for node in ast.walk(ast.parse(b"\\n".join(lines))):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                first, last = node.lineno - 1, node.end_lineno - 1
                for row in range(first, last + 1):
                    end = node.end_col_offset if row == last else len(lines[row])
                    cuts.append((row, node.col_offset, end, b'"-"') if row == first else (row, 0, end, b""))
            case ast.arg(annotation=ast.expr() as kind):
                cut(node.lineno, node.col_offset + len(node.arg.encode()), kind)
            case ast.FunctionDef(returns=ast.expr() as kind) | ast.AsyncFunctionDef(returns=ast.expr() as kind):
                cut(kind.lineno, lines[kind.lineno - 1].rindex(b" ->", 0, kind.col_offset), kind)
    for row, begin, end, instead in sorted(cuts, reverse=True):
        lines[row] = lines[row][:begin] + instead + lines[row][end:]
    return b"\\n".join(lines)


def bytecode(path, source):
    """PEP 552, unchecked: an import does not look at the source."""
    code = compile(source, path, "exec", dont_inherit=True)
    head = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + importlib.util.source_hash(source)
    return head + marshal.dumps(code)


def rewrite(path, change):
    """Replace each entry by what "change" makes of it: name, data and how they are packed; or leave it out."""
    with zipfile.ZipFile(path) as archive:
        entries = sorted(filter(None, (change(name, archive.read(name)) for name in archive.namelist())))
    with zipfile.ZipFile(path, "w") as archive:
        for name, data, packing in entries:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data, packing)


# What changes from release to release is stored, for brotli packs all of it together much better than zlib each alone.
# The library's rest, which is hardly ever read, is packed: sites without brotli exist.
def program(name, source):
    return name, lean(source), zipfile.ZIP_STORED


# For terminals, for processes, and for those who test or debug: what no page can use.
LEFT_OUT = ("_pyio.py", "_pyrepl/", "doctest.py", "multiprocessing/", "pdb.py", "pydoc.py", "unittest/")


def standard(name, data):
    if name.startswith(LEFT_OUT):
        return None
    if f"{library}/{name}" in loaded:
        return f"{name}c", bytecode(f"{library}/{name}", data), zipfile.ZIP_STORED
    return name, data, zipfile.ZIP_DEFLATED


rewrite("/app.zip", program)
rewrite("/tor.zip", program)
rewrite(library, standard)
library
`);
for (const name of archives) await writeFile(join(folder, name), pyodide.FS.readFile(`/${name}`));
await writeFile(join(folder, "python_stdlib.zip"), pyodide.FS.readFile(library));
