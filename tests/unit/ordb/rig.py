"""A download on a virtual clock, with senders honest and scripted; what the download tests share."""

from collections.abc import Callable
from typing import Any

from convergence.crypto.merkle import MerkleTree
from convergence.ordb.download import Download
from convergence.ordb.index import SharedFile
from convergence.ordb.phases import Phase
from convergence.wire.ordb import (
    PIECE_SIZE,
    Info,
    Piece,
    Queued,
    Request,
)
from tests.unit.ordb.memory import Line, Receiver, Script, Sender, World, content, link_of, put_file

Answer = Callable[[Script, Any], None]


class Rig:
    """One file, honest senders and a receiver."""

    def __init__(
        self, size: int, senders: int = 1, seed: int = 1, name: str = "file.bin", manifest: bytes = b"", **options: Any
    ) -> None:
        self.world = World(seed, smallest_cut=1000)
        self.data = manifest + content(size)
        self.options = options
        self.senders = []
        for _ in range(senders):
            node = self.world.node()
            self.senders.append(Sender(node, put_file(node, self.data, name, manifest_size=len(manifest))))
        self.file = self.senders[0].file
        self.client = self.world.node()
        self.receiver = Receiver(self.client, link_of(self.file), **options)
        self.lines: list[Line] = []

    @property
    def download(self) -> Download:
        return self.receiver.download

    def connect(self, *senders: Sender) -> None:
        self.lines += [sender.connect(self.receiver) for sender in senders or self.senders]

    def connect_script(self, answer: Answer, *, info: Info | Queued | None = None, first: Any = ()) -> Script:
        """A sender that plays by a script after its INFO."""
        scripts: list[Script] = []

        def serve(stream: Any) -> Script:
            script = Script(stream)
            script.on_open = lambda script: script.say(info or self.info, *first)
            script.on_message = answer
            scripts.append(script)
            return script

        self.lines.append(Line(self.world, self.world.node(), self.client, self.file.key, serve, self.download.attach))
        return scripts[0]

    @property
    def info(self) -> Info:
        return Info(self.file.salt, self.file.info)

    def piece(self, index: int) -> Piece:
        proof = self.senders[0].tree.proof(index)
        assert proof is not None
        return Piece(index, tuple(proof), self.data[index * PIECE_SIZE : (index + 1) * PIECE_SIZE])

    def restart(self) -> None:
        """The receiving page is reloaded: all but the storage is lost."""
        for line in self.lines:
            line.near.cut_off()
        self.client.outbox.poll(self.world.now)
        self.receiver = Receiver(self.client, link_of(self.file), **self.options)

    def check_done(self, fetched: int | None = None) -> None:
        assert self.receiver.failed == []
        assert self.download.phase is Phase.DONE
        assert self.receiver.bytes == self.data
        assert self.download.duplicates == 0
        if fetched is not None:
            assert self.download.pieces_fetched == fetched
        (done,) = self.receiver.done
        assert done.complete and MerkleTree.of(done.leaves).root == self.file.info.root
        assert SharedFile.parse(self.client.stored["transfer", self.file.hash_name]) == done
        assert self.receiver.progress[-1] == len(self.data)
        assert sorted(self.receiver.progress) == self.receiver.progress


def serve_honestly(rig: Rig) -> Answer:
    def answer(script: Script, message: Any) -> None:
        if isinstance(message, Request):
            script.say(rig.piece(message.index))

    return answer
