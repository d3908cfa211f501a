"""Completion: real shells load the script that `convergence completion` prints, and complete command lines with it.

bash and fish are asked by their own functions. zsh completes in its line editor only, so it runs in a pseudo-terminal.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pynode.cli import SHELLS, parser
from pynode.cli.manual import subparsers
from tests.namespace import program

LIMIT = 60  # seconds for a shell on a busy machine
BASH = """
source {script}
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_shtab_convergence
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
# Every completion that zsh would offer goes to a file, and none to the line.
ZSH = """
PS1=ready
autoload -U compinit && compinit -u -D
eval "$(cat {script})"
function compadd {{
  local -a found
  builtin compadd -O found "$@"
  (( $#found )) && print -rl -- $found >> {found}
}}
function told {{ compstate[insert]=; compstate[list]=; _main_complete; print done >> {found} }}
zle -C told complete-word told
bindkey '^I' told
"""
CASES = [
    ("convergence p", {"pipe", "proxy"}),
    ("convergence release s", {"sign"}),
    ("convergence completion ", set(SHELLS)),
    ("convergence pipe --pro", {"--progress"}),
    ("convergence up --ex", {"--exit-allow"}),
    ("convergence share wo", {"words.txt"}),
    ("convergence share words.txt oth", {"other.txt"}),
    ("convergence mirror --dist fol", {"folder"}),
    ("convergence get LINK -o fol", {"folder"}),
    ("convergence get 7-cr", {"7-crossover", "7-crucifix"}),
    ("convergence get 1234-crossover-clock", {"1234-crossover-clockwork"}),
    ("convergence get 0-cr", set()),
    ("convergence get https://cr", set()),
    ("convergence pipe hash:a --config wo", {"words.txt"}),
    ("convergence pipe ", set()),
    ("convergence forward ", set()),
    ("convergence serve private:a --to ", set()),
    ("convergence relay --stun ", set()),
]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scripts, named by shell, as the command prints them."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in SHELLS:
        command = [sys.executable, "-m", "pynode", "completion", shell]
        (folder / shell).write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    for name in ("words.txt", "other.txt"):
        (tmp_path / name).touch()
    return tmp_path


def bash(script: Path, folder: Path, line: str) -> set[str]:
    words = " ".join(f"'{word}'" for word in line.split(" "))
    text = BASH.format(script=script, words=words)
    done = subprocess.run(["bash", "-c", text], cwd=folder, capture_output=True, text=True, timeout=LIMIT)
    assert not done.stderr
    return set(done.stdout.split())


def fish(script: Path, folder: Path, line: str) -> set[str]:
    text = f"source {script}; complete -C {json.dumps(line)}"
    environment = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    command = [program("fish"), "--no-config", "-c", text]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT)
    assert not done.stderr
    return {found.partition("\t")[0].rstrip("/") for found in done.stdout.splitlines()}


def zsh(script: Path, folder: Path, line: str) -> set[str]:
    found, rc = folder / ".found", folder / ".zshrc"
    rc.write_text(ZSH.format(script=script, found=found))
    command = program("zsh")
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execve(command, ["zsh", "-d", "-i"], {"PATH": os.defpath, "ZDOTDIR": str(folder), "TERM": "dumb"})
    shown = b""

    def until(holds: Callable[[], bool]) -> None:
        nonlocal shown
        deadline = time.monotonic() + LIMIT
        while not holds():
            assert time.monotonic() < deadline, shown
            if select.select([terminal], [], [], 0.05)[0]:
                shown += os.read(terminal, 1 << 16)

    try:
        until(lambda: b"ready" in shown)
        os.write(terminal, f"{line}\t".encode())
        until(lambda: found.exists() and found.read_text().endswith("done\n"))
    finally:
        os.close(terminal)  # which ends the shell
        os.waitpid(process, 0)
    assert b"not found" not in shown and b"error" not in shown, shown
    return set(found.read_text().split("\n")[:-2])


@pytest.mark.parametrize(("line", "wanted"), CASES)
@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes(shell: str, line: str, wanted: set[str], scripts: Path, folder: Path) -> None:
    complete = {"bash": bash, "zsh": zsh, "fish": fish}[shell]
    assert complete(scripts / shell, folder, line) == wanted


def commands() -> list[list[str]]:
    """The words of each command."""
    found = []
    for name, one in subparsers(parser()).items():
        found += [[name, step] for step in subparsers(one)] or [[name]]
    return found


def test_a_folder_is_no_file(scripts: Path, folder: Path) -> None:
    """zsh offers files all the same where no folder fits."""
    for complete in (bash, fish):
        assert complete(scripts / complete.__name__, folder, "convergence mirror --dist wo") == set()


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_bash_completes_every_option_that_the_help_names(words: list[str], scripts: Path, folder: Path) -> None:
    one = parser()
    for word in words:
        one = subparsers(one)[word]
    listed = one.format_help().partition("\noptions:\n")[2]
    wanted = set(re.findall(r"^  (?:-\w.*, )?(--[a-z-]+)", listed, re.MULTILINE))
    assert wanted
    assert bash(scripts / "bash", folder, f"convergence {' '.join(words)} --") == wanted
