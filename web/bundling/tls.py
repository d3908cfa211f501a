"""TLS for the page: BoringSSL, compiled to WebAssembly.

Does: get its sources and a compiler as the lists in web/tls/ pin them, and compile them with what is beside. Equal
sources give equal bytes on every machine.
Does not: compile again until something of these changes: it takes minutes.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tarfile
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

from web.bundling.inventory import Component, python_components
from web.bundling.setup import digest_of, stamped
from web.bundling.steps import ROOT, run, step

COMPILER, SOURCE = "web/tls/compiler.txt", "web/tls/source.txt"
ENGINE, VECTORS = "web/tls/engine.cc", "web/tls/emmintrin.h"
WORK = ROOT / "build" / "tls"
TOOLS = WORK / "tools"
CARRIER = "grpcio"
"""The Python package whose source archive carries BoringSSL. Nothing else of it is used."""
CARRIED = "third_party/boringssl-with-bazel/"

# Folders and files that a client needs no part of: the linker would drop them, and it fails where it lacks one.
# crypto/fipsmodule is one source, which includes the others there.
LEFT_OUT = (
    *("test", "*_test.cc", "fipsmodule", "cms", "hrss", "pkcs7", "slhdsa", "trust_token", "blake2"),
    *("aes", "base64", "dh", "pem", "pkcs8", "rc4", "xwing"),
    *("by_*", "cpu_*", "d1_[lp]*", "dtls_m*", "e_aes*", "e_rc*", "handoff.cc", "handshake_server.cc"),
    *("hash_to_curve.cc", "p_dh.cc", "p_hkdf.cc", "p_xwing.cc", "poly1305_*", "scrypt.cc", "spake25519.cc"),
    *("ssl_asn1.cc", "ssl_file.cc"),
)
INCLUDING = "crypto/fipsmodule/bcm.cc"
TARGET = ("-target", "wasm32-wasi", "-Oz", "-msimd128")
COMPILE = (
    *("-std=c++17", "-fno-exceptions", "-fno-rtti", "-fno-sanitize=all", "-ffunction-sections", "-fdata-sections"),
    *("-fvisibility=hidden", "-Iinclude", "-I.", "-DNDEBUG", "-DBORINGSSL_IMPLEMENTATION", "-DOPENSSL_SMALL"),
    *("-DOPENSSL_NO_ASM", "-DOPENSSL_NO_SOCK", "-DOPENSSL_NO_FILESYSTEM", "-DOPENSSL_SSE2"),
    "-DOPENSSL_NO_THREADS_CORRUPT_MEMORY_AND_LEAK_SECRETS_IF_THREADED",  # the module runs in one thread
)
LINK = ("-mexec-model=reactor", "-Wl,--gc-sections", "-Wl,--strip-all", "-Wl,-z,stack-size=262144")
_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
AGAIN = "If the network is down, run this command again when it is back."


def engine() -> bytes:
    """The module (tls.wasm). Raises BuildError."""
    wasm, stamp = WORK / "tls.wasm", WORK / "of"
    of = digest_of([COMPILER, SOURCE, ENGINE, VECTORS, "web/bundling/tls.py"])  # as it is when the work begins

    def made() -> str:
        return f"{of} {hashlib.sha256(wasm.read_bytes() if wasm.is_file() else b'').hexdigest()}"

    if not stamped(stamp, made()):
        stamp.unlink(missing_ok=True)
        ensure_tools()
        compile_with(unpacked(), wasm)
        stamp.write_text(made())
    return wasm.read_bytes()


def ensure_tools() -> None:
    """Make build/tls have the compiler, in a venv of its own, and the sources' archive."""
    stamp, of = TOOLS / ".convergence", digest_of([COMPILER, SOURCE])
    if not stamped(stamp, of):
        run([sys.executable, "-m", "venv", "--clear", TOOLS], "See the lines above.", "tls-venv")
        # pip asks an archive of sources for its metadata, by setuptools: hence the tools first.
        pip("install", "Getting a compiler for the page's TLS", "--only-binary=:all:", "-r", ROOT / COMPILER)
        for archive in WORK.glob(f"{CARRIER}-*.tar.gz"):
            archive.unlink()
        pip("download", "Getting the page's TLS", f"--no-binary={CARRIER}", "-d", WORK, "-r", ROOT / SOURCE)
        stamp.write_text(of)


def roots(pem: str) -> bytes:
    """The certificates in a file of certifi's, one after the other in DER."""
    return b"".join(b64decode(text) for text in _CERTIFICATE.findall(pem))


def components() -> list[Component]:
    """What the module is made of: BoringSSL, and the compiler's C library."""
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in (COMPILER, SOURCE))
    return [part._replace(where="browser") for part in python_components(text, ()) if part.name in (CARRIER, "ziglang")]


def pip(command: str, doing: str, *arguments: str | Path) -> None:
    options = ("--disable-pip-version-check", "--no-input", "--require-hashes", "--no-deps", "--no-build-isolation")
    run([TOOLS / "bin" / "python", "-m", "pip", command, *options, *arguments], AGAIN, f"tls-{command}", doing)


def unpacked() -> Path:
    """The folder of BoringSSL's sources."""
    (archive,) = WORK.glob(f"{CARRIER}-*.tar.gz")
    with tarfile.open(archive) as files:
        prefix = f"{archive.name.removesuffix('.tar.gz')}/{CARRIED}"
        files.extractall(WORK, [file for file in files if file.name.startswith(prefix)])
    return WORK / prefix


def compile_with(source: Path, wasm: Path) -> None:
    """Compile in the sources' own folder: their names, which errors carry, are then the same on every machine."""
    found = [*source.glob("ssl/*.cc"), *source.glob("crypto/**/*.cc"), *source.glob("gen/crypto/err_data.cc")]
    names = sorted(path.relative_to(source).as_posix() for path in found)
    names = [name for name in names if not any(fnmatchcase(part, out) for part in name.split("/") for out in LEFT_OUT)]
    for own in (ENGINE, VECTORS):
        shutil.copy(ROOT / own, source)
    environment = {**os.environ, **{f"ZIG_{kind}_CACHE_DIR": str(WORK / "cache") for kind in ("LOCAL", "GLOBAL")}}

    def compiler(language: str, log: str, *arguments: str | Path) -> None:
        command = [TOOLS / "bin" / "python", "-m", "ziglang", language, *TARGET, *arguments]
        run(command, "The sources that are pinned do not compile.", f"tls-{log}", cwd=source, env=environment)

    def compiled(name: str) -> Path:
        result = source / f"{name}.o"
        compiler("c++", "compile/" + name.replace("/", "-"), *COMPILE, "-c", name, "-o", result)
        return result

    step("Compiling the page's TLS, which takes minutes")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, ["engine.cc", INCLUDING, *names]))
    compiler("cc", "link", *LINK, *objects, "-o", wasm)
