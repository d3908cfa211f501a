"""What a build, the tests and the benches need on this machine: .venv, node_modules, browsers, network tools.

Does: install what is missing or was changed, in the versions and with the hashes that the lock files pin; say what
to do where that is impossible.
Does not: touch the network once the set-up matches the lock files, nor need more than the standard library.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from web.bundling.inventory import digest_of_trees
from web.bundling.steps import ROOT, BuildError, run

VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
NODE_MODULES = ROOT / "node_modules"
NODE_NEEDED = 20
BITCOIN = ROOT / "tests" / "interop" / "bitcoin"  # an npm project of its own: nothing of it is for the page

# Pure Python packages that the core imports: installed beside it in CPython, with it in app.zip in the browser.
BUNDLED_PYTHON = ("h11",)

# What tests and benches run beside Python: Debian's package and a program in it, which may be one that only root has in
# PATH. iproute2 to coturn are for networks of the tests' own, with NATs and a STUN server; minisign signs releases.
# openssh-server to git are the real programs of tests/interop: what brings `sshd` and `initdb` brings their clients.
# Facilitators share a redis-server. nginx, caddy and openssl serve https; tor and torsocks are the network of
# tests/interop/tor.
# zsh to man-db load the completion and read the manual pages of the command.
TEST_PROGRAMS = {
    "chromium": "chromium",
    "chromium-headless-shell": "chromium-headless-shell",
    "firefox-esr": "firefox-esr",
    "iproute2": "ip",
    "iptables": "iptables",
    "coturn": "turnserver",
    "minisign": "minisign",
    "faketime": "faketime",
    "openssh-server": "sshd",
    "postgresql": "initdb",
    "redis-server": "redis-server",
    "curl": "curl",
    "git": "git",
    "nginx-light": "nginx",
    "caddy": "caddy",
    "openssl": "openssl",
    "tor": "tor",
    "torsocks": "torsocks",
    "zsh": "zsh",
    "fish": "fish",
    "mandoc": "mandoc",
    "groff": "groff",
    "man-db": "man",
}
SERVICE_POLICY = Path("/usr/sbin/policy-rc.d")
"""What Debian's packages ask whether their services may start (invoke-rc.d(8))."""
SYSTEM_PROGRAMS = ("/usr/sbin", "/sbin", "/usr/lib/postgresql/*/bin")
"""Folders, by patterns, in which programs are that need not be in PATH."""


def stamped(stamp: Path, digest: str) -> bool:
    return stamp.is_file() and stamp.read_text() == digest


def digest_of(names: Iterable[str], *more: str) -> str:
    """Digest of these files of the tree and some words; a stamp that holds it says that the set-up still fits."""
    digest = hashlib.sha256()
    for part in [(ROOT / name).read_bytes() for name in names] + [word.encode() for word in more]:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def apt_install(packages: Sequence[str], why: str) -> None:
    """Install Debian packages, or say which."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise BuildError(
            f"{why}. Install {' and '.join(packages)} (on Debian and Ubuntu: "
            f"sudo apt-get update && sudo apt-get install {' '.join(packages)}), then run this command again."
        )
    hint = f"Install {' '.join(packages)} by hand, then run this command again."
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-q"], hint, "apt-update", "Asking apt-get what there is", env=environment)
    install = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages]
    with no_services():
        run(install, hint, "apt-install", f"{why}: installing {' '.join(packages)} with apt-get", env=environment)


@contextlib.contextmanager
def no_services() -> Iterator[None]:
    """What is installed meanwhile starts no service: tor would join the public network. A machine's own policy counts
    where it has one."""
    if SERVICE_POLICY.exists():
        yield
        return
    SERVICE_POLICY.write_text("#!/bin/sh\nexit 101\n")
    SERVICE_POLICY.chmod(0o755)
    try:
        yield
    finally:
        SERVICE_POLICY.unlink()


def pip_install(doing: str, *arguments: str) -> None:
    run(
        [VENV_PYTHON, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", *arguments],
        "If the network is down, run this command again when it is back; if .venv is damaged, delete it first.",
        "pip",
        doing,
    )


def ensure_python(dev: bool) -> None:
    """Make .venv hold the locked packages: the node's, or with `dev` also those for tests and lint."""
    source = "requirements-source.txt"
    runtime, full = digest_of(["requirements.txt"]), digest_of(["requirements.txt", "requirements-dev.txt", source])
    runtime_stamp, full_stamp = VENV / ".convergence-runtime", VENV / ".convergence-dev"
    bundled_stamp = VENV / ".convergence-bundled"
    stands, intact = venv_stands(), stamped(bundled_stamp, installed_python())
    if stands and intact and stamped(*((full_stamp, full) if dev else (runtime_stamp, runtime))):
        return
    if not stands:
        if importlib.util.find_spec("ensurepip") is None:
            apt_install(["python3-venv"], "Python's venv module is incomplete")
        command: list[str | Path] = [sys.executable, "-m", "venv", "--clear", VENV]
        run(command, "See the lines above.", "venv", "Creating the virtual environment .venv")
    lock = "requirements-dev.txt" if dev else "requirements.txt"
    if not intact:
        for folder in bundled_folders():  # else pip would take the files there for those that it installed
            shutil.rmtree(folder)
    pip_install(f"Installing the Python packages of {lock}", "--require-hashes", "-r", lock)
    bundled_stamp.write_text(installed_python())
    runtime_stamp.write_text(runtime)
    if dev:
        building = ("--require-hashes", "--no-deps", "--no-build-isolation", "-r", source)
        pip_install(f"Building the Python packages of {source}", *building)
        full_stamp.write_text(full)


def venv_stands() -> bool:
    """Whether .venv has a Python that finds its packages; after an upgrade of the system's, it does not."""
    try:
        return subprocess.run([VENV_PYTHON, "-c", "import pip"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def bundled_folders() -> list[Path]:
    """The folders of the installed Python packages whose files go into dist/."""
    patterns = [pattern for name in BUNDLED_PYTHON for pattern in (name, f"{name}-*.dist-info")]
    return [folder for pattern in patterns for folder in VENV.glob(f"lib/python3*/site-packages/{pattern}")]


def installed_python() -> str:
    return digest_of_trees(bundled_folders(), ["__pycache__"])


def ensure_tree_installed() -> None:
    """Make `python -m pynode` and `.venv/bin/convergence` run this tree, from any folder."""
    digest, stamp = digest_of(["pyproject.toml"], str(ROOT)), VENV / ".convergence-tree"
    if not stamped(stamp, digest):
        doing = "Installing this tree into .venv"
        pip_install(doing, "--no-deps", "--no-index", "--no-build-isolation", "-e", str(ROOT))
        stamp.write_text(digest)


def ensure_node() -> None:
    """Make node_modules hold the locked npm packages."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        apt_install(["nodejs", "npm"], f"Node.js ({NODE_NEEDED} or later) and npm are needed to bundle the page")
    check_node()
    ensure_npm_packages(ROOT, NODE_MODULES)


def ensure_bitcoin() -> None:
    """Make the tests' Bitcoin nodes ready to run. They take JavaScript where their packages would need a compiler."""
    ensure_npm_packages(BITCOIN, BITCOIN / "node_modules")


def ensure_npm_packages(project: Path, modules: Path) -> None:
    """Make `modules` hold the packages that a project's package-lock.json names. Their install scripts never run."""
    stamp, files = modules / ".convergence-lock", [str(project / f"package{part}.json") for part in ("", "-lock")]

    def installed() -> str:
        return digest_of(files, digest_of_trees([modules], [stamp.name]))

    if stamped(stamp, installed()):
        return
    stamp.unlink(missing_ok=True)
    lock = (project / "package-lock.json").relative_to(ROOT).as_posix()
    # All that the lock names, even if NODE_ENV or the user's settings leave out packages for development.
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--include=dev", "--include=optional"]
    run(
        ["npm", "ci", *options, "--prefix", str(project)],
        "If the network is down, run this command again when it is back.",
        "npm" if project == ROOT else f"npm-{project.name}",
        f"Installing the npm packages of {lock}: node_modules is not what was installed from it",
    )
    stamp.write_text(installed())


def check_node() -> None:
    """Raises BuildError when Node.js is too old or does not run: Debian 12 has version 18."""
    answer = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout.strip()
    major = answer.removeprefix("v").partition(".")[0]
    if not major.isdigit() or int(major) < NODE_NEEDED:
        raise BuildError(
            f"Node.js {NODE_NEEDED} or later is needed to bundle the page, and `node --version` says"
            f" {answer or 'nothing'}. Where the system's own package is older, install it from nodejs.org or with a"
            " version manager such as nvm, put it first in PATH, then run this command again."
        )


def find_program(name: str) -> str | None:
    """Path of a program, also of one that only root, or only its own package, has in PATH."""
    system = [folder for pattern in SYSTEM_PROGRAMS for folder in sorted(glob.glob(pattern))]
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *system]))


def ensure_test_programs() -> None:
    missing = [package for package, program in TEST_PROGRAMS.items() if find_program(program) is None]
    if missing:
        apt_install(
            missing, "The tests need browsers, tools to make networks for them, and programs to run through them"
        )
