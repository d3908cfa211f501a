"""OpenSSH through a pipe: `ssh` and `scp` by ProxyCommand, against a real sshd."""

from __future__ import annotations

import contextlib
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import ENVIRONMENT, MIB, PATIENCE, sha256, write_file
from tests.interop.openssh import HOST, OpenSsh, make_key
from tests.interop.programs import child
from tests.interop.ways import Service, Way


@pytest.fixture(scope="module")
def openssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSsh]:
    with OpenSsh(tmp_path_factory.mktemp("openssh")).running() as server:
        yield server


@pytest.fixture(scope="module")
def service(way: Way, openssh: OpenSsh) -> Iterator[Service]:
    with way.to_port(openssh.port) as service:
        yield service


def test_what_goes_in_comes_back_and_the_end_of_input_ends_it(openssh: OpenSsh, service: Service) -> None:
    """`ssh host cat < file`: cat ends when it is told that its input has."""
    data = bytes(range(256)) * (4 * MIB // 256)
    done = openssh.run(service.proxy_command, "cat", given=data)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == data


@pytest.mark.parametrize("code", [0, 1, 42, 254])
def test_the_exit_code_of_the_far_command_is_that_of_ssh(openssh: OpenSsh, service: Service, code: int) -> None:
    done = openssh.run(service.proxy_command, f"echo out; echo err >&2; exit {code}")
    assert (done.returncode, done.stdout, done.stderr) == (code, b"out\n", b"err\n")


def test_files_are_copied_both_ways(openssh: OpenSsh, service: Service, tmp_path: Path) -> None:
    digest = write_file(tmp_path / "here", 8 * MIB)
    there, back = tmp_path / "there", tmp_path / "back"
    for source, target in ((tmp_path / "here", f"{HOST}:{there}"), (f"{HOST}:{there}", back)):
        command = [*openssh.client(service.proxy_command, "scp"), "-q", source, target]
        done = subprocess.run(command, capture_output=True, env=ENVIRONMENT, timeout=PATIENCE, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
    assert sha256(there) == sha256(back) == digest


def test_several_sessions_at_once_keep_apart(openssh: OpenSsh, service: Service) -> None:
    command = [*openssh.client(service.proxy_command), HOST, "cat"]
    with contextlib.ExitStack() as stack:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        sessions = [stack.enter_context(child(command, **pipes)) for _ in range(4)]
        for number, session in enumerate(sessions):
            session.stdin.write(b"%d\n" % number)
        for number, session in enumerate(sessions):  # each has answered before the first one may end
            assert select.select([session.stdout], [], [], PATIENCE)[0]
            assert session.stdout.readline() == b"%d\n" % number
        for number, session in enumerate(sessions):
            assert session.communicate(b"end of %d" % number, timeout=PATIENCE)[0] == b"end of %d" % number
            assert session.returncode == 0


def test_a_host_with_another_key_is_refused(
    openssh: OpenSsh, service: Service, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The client checks the host's key: what lies between cannot be the host."""
    request.addfinalizer(lambda: openssh.know((openssh.folder / "host.pub").read_text()))
    make_key(tmp_path / "other")
    openssh.know((tmp_path / "other.pub").read_text())
    done = openssh.run(service.proxy_command, "true")
    assert done.returncode == 255 and b"Host key verification failed" in done.stderr


def test_sshd_as_a_process_for_each_connection(openssh: OpenSsh, way: Way) -> None:
    """As inetd would run it."""
    with way.to_program(*openssh.inetd) as service:
        done = openssh.run(service.proxy_command, "cat", given=b"through standard input and output")
        assert (done.returncode, done.stdout) == (0, b"through standard input and output")
