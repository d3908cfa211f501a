"""Does: run a module of ours in Node.js, which has WebCrypto and fetch as browsers have.
Does not: know a page; what needs one is tested in tests/browser.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

WEB = Path(__file__).parents[3] / "web"


def javascript(body: str, argument: Any, *, timeout: float = 60, **modules: str) -> Any:
    """What the JavaScript function body returns, awaited; both ways as JSON. `modules`: modules of web/ by name.
    `timeout` is in seconds."""
    imports = "".join(
        f"import * as {name} from {json.dumps((WEB / path).as_uri())};\n" for name, path in modules.items()
    )
    read = 'import { readFileSync } from "node:fs";\nconst argument = JSON.parse(readFileSync(0, "utf8"));\n'
    program = f"{imports}{read}const result = await (async () => {{ {body} }})();\nconsole.log(JSON.stringify(result));"
    command = ["node", "--no-warnings", "--input-type=module", "--eval", program]
    done = subprocess.run(
        command, input=json.dumps(argument), capture_output=True, text=True, check=False, timeout=timeout
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
