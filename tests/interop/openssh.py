"""An OpenSSH server on loopback, and the configuration of a client that reaches it by a ProxyCommand only.

Does: make the keys, the configurations and the list of known hosts in a folder; run sshd from there.
Does not: read or change anything of this machine's own OpenSSH. It needs root, as sshd does.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.processes import ENVIRONMENT, PATIENCE
from tests.interop.programs import free_port, need_root, serving
from tests.namespace import program

HOST = "server.example"
"""The name that the client knows the server by; there is no such host."""

SERVER = """\
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
# The folder is below /tmp, where others can write.
StrictModes no
Subsystem sftp internal-sftp
"""
CLIENT = """\
Host {host}
    User root
    IdentityFile {folder}/user
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {folder}/known_hosts
    GlobalKnownHostsFile none
    StrictHostKeyChecking yes
    BatchMode yes
    LogLevel ERROR
"""
# sshd wants this folder. A mount of its own has it, and leaves nothing behind; exec keeps the process id.
WITH_RUN = "mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec "


class OpenSsh:
    """A server that runs at `port`.

    Attributes:
        folder: has the keys `host` and `user`, and `known_hosts`.
    """

    def __init__(self, folder: Path) -> None:
        need_root()
        self.folder = folder
        self.port = free_port()
        for name in ("host", "user"):
            make_key(folder / name)
        self.know((folder / "host.pub").read_text())
        self._server = folder / "sshd_config"
        self._server.write_text(SERVER.format(port=self.port, folder=folder))
        self._client = folder / "ssh_config"
        self._client.write_text(CLIENT.format(host=HOST, folder=folder))

    def know(self, key: str) -> None:
        """Let this public key be the only one that the client knows of the host."""
        (self.folder / "known_hosts").write_text(f"{HOST} {key}")

    @contextlib.contextmanager
    def running(self) -> Iterator[OpenSsh]:
        with serving(*self._command("-D"), ready=f"127.0.0.1 port {self.port}"):
            yield self

    @property
    def inetd(self) -> list[str]:
        """The command line that serves one connection, at its standard input and output."""
        return self._command("-i")

    def _command(self, *options: str) -> list[str]:
        sshd = shlex.join([program("sshd"), "-e", *options, "-f", str(self._server)])
        return ["unshare", "--mount", "sh", "-c", WITH_RUN + sshd]

    def client(self, proxy_command: str, name: str = "ssh") -> list[str]:
        """The beginning of a command line of ssh or scp. Its streams go through `proxy_command`, as it is in a
        configuration."""
        return [program(name), "-F", str(self._client), "-o", f"ProxyCommand={proxy_command}"]

    def run(self, proxy_command: str, *command: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run a command at the host, to its end."""
        line = [*self.client(proxy_command), HOST, *command]
        return subprocess.run(line, input=given, capture_output=True, env=ENVIRONMENT, timeout=PATIENCE, check=False)


def make_key(file: Path) -> None:
    subprocess.run([program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", file], check=True)
