"""One `tor` process of a private network, its control port and its log.

Does: write its configuration, start it and end it by its process id; wait for what its control port tells; send its
streams over chosen relays; read the identities that it made and what its log holds against others.
Does not: know which network it is in (tests/interop/tor/network.py).
"""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from stem import CircStatus, DescriptorUnavailable, Flag, StreamStatus
from stem.control import Controller, EventType, Listener
from stem.response.events import StreamEvent

from tests.e2e.processes import PATIENCE
from tests.interop.programs import Server
from tests.namespace import program

# ProtocolWarnings makes a warning of what others do against the specification; else it has the level `info`.
OWN = """\
Nickname {name}
DataDirectory {folder}
ControlSocket {folder}/control
ProtocolWarnings 1
LogMessageDomains 1
LogTimeGranularity 1
SafeLogging 0
Log notice file {folder}/log
Log notice stdout
"""

RECORD = re.compile(r".{15,19} \[(?P<level>notice|warn|err)\] (?:\{(?P<domains>[A-Z,]+)\} )?(?P<words>.*)")
ABOUT_OTHERS = {"PROTOCOL", "HANDSHAKE", "CHANNEL", "DIRSERV", "DOS", "BUG"}
"""Domains in which even a notice tells of something odd. What has no domain is about the configuration."""
ABOUT_ITSELF = {"CONFIG", "FS", "APP"}
"""Its configuration, its files, and the programs that use it."""
HARMLESS = re.compile(
    r"Your log may contain sensitive information|You are running Tor as root|Bw Weight Failure|We just marked ourself"
    r"|No available nodes when trying to choose node"  # of so few, for circuits of its own
    # Authorities that vote each ten seconds are not always in step, least of all at their start.
    r"|.*\b([Vv]otes?|[Cc]onsensus|uploading signatures|store signatures)\b"
)


class Tor(Server):
    """A process that runs until `stop` is called or the thread that started it ends.

    Args:
        folder: where it keeps all that it writes; nobody else may read it. Its name is the nickname.
        common: the file with the options that it shares with others.
        options: lines of a torrc for this one.
    """

    def __init__(self, folder: Path, common: Path, options: Sequence[str]) -> None:
        self.folder = folder
        self.name = folder.name
        self._controller: Controller | None = None
        with_us = (program("setpriv"), "--pdeathsig", "KILL")
        super().__init__(*with_us, program("tor"), "--defaults-torrc", common, "-f", write_torrc(folder, options))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-1 of its RSA identity key, 40 hexadecimal digits; of a relay that says "Bootstrapped 0%"."""
        return read_identity(self.folder / "fingerprint")

    @cached_property
    def ed25519(self) -> str:
        """Its Ed25519 identity, base64 without padding."""
        return read_identity(self.folder / "fingerprint-ed25519")

    @property
    def controller(self) -> Controller:
        """stem's, connected and authenticated; to a process that has said something."""
        if self._controller is None:
            self._controller = Controller.from_socket_file(str(self.folder / "control"))
            self._controller.authenticate()
        return self._controller

    def port(self, kind: Listener) -> int:
        """Of its only listener of that kind."""
        ((_, port),) = self.controller.get_listeners(kind)
        return int(port)

    @property
    def carried(self) -> int:
        """Bytes that it has read since its start."""
        return int(self.controller.get_info("traffic/read"))

    def flagged(self, *flags: Flag) -> set[str]:
        """Fingerprints of the relays with these flags in the consensus that it has; none while it has none."""
        with contextlib.suppress(DescriptorUnavailable):
            statuses = self.controller.get_network_statuses()
            return {entry.fingerprint for entry in statuses if set(flags) <= set(entry.flags)}
        return set()

    def wait(self, event: EventType, holds: Callable[[], bool], what: str) -> None:
        """Until `holds`, which is asked now and after each event of that kind."""
        happened: Queue[Any] = Queue()
        self.controller.add_event_listener(happened.put, event)
        try:
            while not holds():
                happened.get(timeout=PATIENCE)
        except Empty:
            raise AssertionError(f"{self.name}: no {what} in time; {list(self.log)}") from None
        finally:
            self.controller.remove_event_listener(happened.put)

    def knows(self, relay: str) -> bool:
        """Whether it has the microdescriptor of the relay with this fingerprint."""
        return bool(self.controller.get_info(f"md/id/{relay}", default=""))

    def has_directory(self) -> None:
        """Wait until it has what it takes to choose paths: a consensus and microdescriptors."""
        enough = "status/enough-dir-info"
        self.wait(EventType.STATUS_CLIENT, lambda: self.controller.get_info(enough) == "1", "directory")

    @contextlib.contextmanager
    def through(self, *relays: str) -> Iterator[str]:
        """A circuit over the relays with these fingerprints, that carries all new streams of this client.

        Yields: its number. Raises stem.CircuitExtensionFailed if a relay refuses.
        """
        controller = self.controller
        self.wait(EventType.BW, lambda: all(map(self.knows, relays)), f"descriptors of {relays}")  # BW: each second
        circuit: str = controller.new_circuit(relays, await_build=True)

        def attach(event: StreamEvent) -> None:
            if event.status in (StreamStatus.NEW, StreamStatus.NEWRESOLVE) and event.circ_id is None:
                controller.attach_stream(event.id, circuit)

        controller.add_event_listener(attach, EventType.STREAM)
        controller.set_conf("__LeaveStreamsUnattached", "1")
        try:
            yield circuit
        finally:
            controller.reset_conf("__LeaveStreamsUnattached")
            controller.remove_event_listener(attach)
            if any(entry.id == circuit and entry.status == CircStatus.BUILT for entry in controller.get_circuits()):
                controller.close_circuit(circuit)

    def notices(self) -> list[str]:
        return notices((self.folder / "log").read_text())

    def stop(self, number: int = signal.SIGKILL) -> None:
        """tor 0.4.9.11 does not always come to its end after SIGTERM: its threads may wait for each other."""
        if self._controller is not None:
            self._controller.close()
        super().stop(number)


def notices(log: str) -> list[str]:
    """What a log (with LogMessageDomains) holds against others: warnings and errors, and notices ABOUT_OTHERS, without
    what each network like this one says of itself."""
    found = []
    for line in log.splitlines():
        record = RECORD.fullmatch(line)
        if record is None or record["domains"] is None or HARMLESS.match(record["words"]):
            continue
        domains = set(record["domains"].split(","))
        if domains & ABOUT_OTHERS or (record["level"] != "notice" and not domains & ABOUT_ITSELF):
            found.append(line)
    return found


def write_torrc(folder: Path, options: Sequence[str]) -> Path:
    """The configuration in a folder, which is made if it is not there."""
    folder.mkdir(mode=0o700, exist_ok=True)
    own = OWN.format(name=folder.name, folder=folder)
    (folder / "torrc").write_text(own + "".join(f"{line}\n" for line in options))
    return folder / "torrc"


def read_identity(file: Path) -> str:
    """Of a file that tor wrote: nickname, then identity."""
    return file.read_text().split()[1]
