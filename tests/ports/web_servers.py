"""Real https servers for the tests of TLS engines: nginx, Caddy and OpenSSL's own.

Does: start each on a loopback port with the certificate of good.example (tls_servers.py) and a folder of files; end it.
Does not: know clients.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from web.bundling.setup import find_program

NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;
events {{}}
http {{
  access_log off;
  {temporary}
  server {{
    listen 127.0.0.1:{port} ssl; root {files};
    ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;
  }}
}}
"""
NGINX_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
CADDY = """
{{
  admin off
  auto_https off
  storage file_system {folder}/caddy
}}
https://good.example:{port} {{
  bind 127.0.0.1
  tls {certificate} {key}
  root * {files}
  file_server
}}
"""
OPENSSL = ("openssl", "s_server", "-WWW", "-quiet", "-accept")
SERVERS = {
    "nginx": (),
    "caddy": (),
    "openssl": (),
    "openssl -tls1_2": ("-tls1_2",),
    "openssl -tls1": ("-tls1", "-cipher", "ALL:@SECLEVEL=0"),
    "openssl AES": ("-ciphersuites", "TLS_AES_256_GCM_SHA384"),
}
READY_WITHIN = 20.0  # seconds


@contextlib.contextmanager
def serving(name: str, files: Path, certificate: Path, key: Path, folder: Path) -> Iterator[int]:
    """Run one of SERVERS; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in NGINX_TEMPORARY)
    values = {"port": port, "files": files, "certificate": certificate, "key": key, "folder": folder}
    config = folder / f"{name.split()[0]}-{port}"
    environment = {**os.environ, "HOME": str(folder)}
    if name == "nginx":
        config.write_text(NGINX.format(temporary=temporary, **values))
        command = [find_program("nginx") or "nginx", "-c", str(config)]
    elif name == "caddy":
        config.write_text(CADDY.format(**values))
        command = ["caddy", "run", "--adapter", "caddyfile", "--config", str(config)]
    else:
        chain = ["-cert", str(certificate), "-cert_chain", str(certificate), "-key", str(key)]
        command = [*OPENSSL, f"127.0.0.1:{port}", *chain, *SERVERS[name]]
    log = (folder / f"{config.name}.log").open("wb")
    process = subprocess.Popen(command, cwd=files, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + READY_WITHIN
        while True:
            assert process.poll() is None and time.monotonic() < deadline, Path(log.name).read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.02)  # between two tries
        yield port
    finally:
        process.kill()
        process.wait()
        log.close()


class TcpExchange:
    """A conversation (tls_suite.Exchange) over TCP: each call waits for the server to say something."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 20)

    def __call__(self, data: bytes) -> bytes | None:
        try:
            self._socket.sendall(data)
            answer = self._socket.recv(1 << 18)
        except ConnectionError:
            answer = b""
        return answer or None

    def close(self) -> None:
        self._socket.close()
