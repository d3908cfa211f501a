"""convergence.d.ts says what convergence.js is, so that programs in TypeScript can use it."""

from __future__ import annotations

import re
import subprocess

from build import NODE_MODULES
from tests.unit.web.javascript import WEB, javascript

PROGRAM = WEB.parent / "tests" / "unit" / "web" / "declared.ts"
OPTIONS = ("--noEmit", "--strict", "--types", "", "--target", "es2024", "--module", "esnext")
LIBRARIES = ("--moduleResolution", "bundler", "--lib", "es2024,dom,dom.iterable,dom.asynciterable")
DECLARED = (WEB / "convergence.d.ts").read_text()


def test_a_program_type_checks() -> None:
    command = [NODE_MODULES / ".bin" / "tsc", *OPTIONS, *LIBRARIES, PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_module_exports_what_is_declared() -> None:
    said = javascript(
        """
        const own = (made) => [...Object.getOwnPropertyNames(node.Node.prototype), ...made].filter(
            (name) => name !== "constructor" && name !== "started");
        return { exported: Object.keys(module), numbers: module.EndReason, node: own(["nodes", "ready", "closed"]) };
        """,
        None,
        module="convergence.js",
        node="api/node.js",
    )
    declared = re.findall(r"^export (?:function|class|const) (\w+)", DECLARED, re.MULTILINE)
    assert sorted(said["exported"]) == sorted(declared)
    assert said["numbers"] == {name: int(number) for name, number in re.findall(r"readonly (\w+): (\d+);", DECLARED)}
    [body] = re.findall(r"^export interface Node extends EventTarget \{\n(.*?)^\}", DECLARED, re.MULTILINE | re.DOTALL)
    members = set(re.findall(r"^  (?:readonly )?(\w+)[<(:]", body, re.MULTILINE))
    assert set(said["node"]) == members - {"addEventListener", "removeEventListener"}
