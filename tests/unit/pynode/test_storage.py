"""A node's folder: buckets, pieces, crashes, full disks, shared and finished files."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from convergence.effects import Failure
from convergence.ordb.collection import Collection
from convergence.ordb.index import SharedFile
from convergence.wire.manifest import Entry, encode_manifest
from convergence.wire.ordb import FileInfo
from pynode import storage as module
from pynode.segments import Segment
from pynode.storage import DISK_FULL, PIECE_SIZE, DiskStorage, StorageError

ROOT = bytes(range(32))
OTHER = b"\xff" * 32
NAME, SECOND = b"m" * 32, b"n" * 32


def key(piece: int, root: bytes = ROOT) -> bytes:
    return root + piece.to_bytes(4, "big")


def described(size: int, piece_size: int = PIECE_SIZE) -> SharedFile:
    return SharedFile(NAME, bytes(32), bytes(32), FileInfo(ROOT, size, "name", piece_size=piece_size))


class Asked:
    """The storage with awaitable calls."""

    def __init__(self, storage: DiskStorage) -> None:
        self.storage = storage

    async def store(self, *items: tuple[str, bytes, bytes | None]) -> Any:
        return await self._wait(lambda reply: self.storage.store(items, reply))

    async def load(self, bucket: str, item: bytes) -> Any:
        return await self._wait(lambda reply: self.storage.load(bucket, item, reply))

    async def scan(self, bucket: str, prefix: bytes = b"") -> Any:
        return await self._wait(lambda reply: self.storage.scan(bucket, prefix, reply))

    async def _wait(self, call: Callable[[Callable[[Any], None]], None]) -> Any:
        answer = asyncio.get_running_loop().create_future()
        call(answer.set_result)
        assert not answer.done()  # never from within the call
        return await asyncio.wait_for(answer, 20)


def with_storage(directory: Path, test: Callable[[Asked], Awaitable[None]]) -> None:
    async def main() -> None:
        storage = DiskStorage(directory)
        try:
            await test(Asked(storage))
        finally:
            await storage.close()

    asyncio.run(main())


def test_buckets(tmp_path: Path) -> None:
    async def test(db: Asked) -> None:
        assert await db.load("meta", b"a") is None
        assert (
            await db.store(("meta", b"a", b"1"), ("meta", b"ab", b""), ("meta", b"b", b"3"), ("node", b"a", b"4"))
            is None
        )
        assert await db.load("meta", b"a") == b"1" and await db.load("meta", b"ab") == b""
        assert await db.scan("meta") == [b"a", b"ab", b"b"]
        assert await db.scan("meta", b"a") == [b"a", b"ab"]
        assert await db.scan("nothing") == []
        assert await db.store(("meta", b"a", b"new"), ("meta", b"b", None), ("meta", b"zz", None)) is None
        assert await db.scan("meta") == [b"a", b"ab"] and await db.load("meta", b"a") == b"new"

    with_storage(tmp_path / "a" / "b", test)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o077 == 0

    async def again(db: Asked) -> None:
        assert await db.scan("meta") == [b"a", b"ab"]

    with_storage(tmp_path / "a" / "b", again)


def test_pieces_in_any_order_and_a_short_last_one(tmp_path: Path) -> None:
    pieces = {0: os.urandom(PIECE_SIZE), 2: b"end", 1: os.urandom(PIECE_SIZE)}

    async def test(db: Asked) -> None:
        for index in (2, 0, 1):
            assert await db.load("piece", key(index)) is None
            assert await db.store(("piece", key(index), pieces[index])) is None
            assert await db.load("piece", key(index)) == pieces[index]
        assert await db.store(("piece", key(7, OTHER), b"other")) is None
        assert await db.scan("piece", ROOT) == [key(0), key(1), key(2)]
        assert await db.scan("piece", ROOT + b"\0\0\0\x01") == [key(1)]
        assert await db.scan("piece") == [key(0), key(1), key(2), key(7, OTHER)]
        assert (tmp_path / "pieces" / ROOT.hex()).read_bytes() == pieces[0] + pieces[1] + pieces[2]
        assert await db.store(*[("piece", key(index), None) for index in range(3)]) is None
        assert await db.scan("piece") == [key(7, OTHER)]
        assert not (tmp_path / "pieces" / ROOT.hex()).exists()

    with_storage(tmp_path, test)


def test_senseless_requests_fail_and_change_nothing(tmp_path: Path) -> None:
    async def test(db: Asked) -> None:
        for item in (("piece", b"short", b"x"), ("piece", key(0), bytes(PIECE_SIZE + 1))):
            result = await db.store(("meta", b"a", b"1"), item)
            assert isinstance(result, Failure) and result.kind == "io"
        assert isinstance(await db.load("piece", b"short"), Failure)
        assert await db.load("meta", b"a") is None and await db.scan("piece") == []

    with_storage(tmp_path, test)


def test_a_failing_store_spares_its_batch(tmp_path: Path) -> None:
    async def test(db: Asked) -> None:
        results = await asyncio.gather(
            *(db.store(("meta", b"%d" % n, b"x"), ("piece", b"bad" if n == 5 else key(n), b"y")) for n in range(10))
        )
        assert [isinstance(result, Failure) for result in results] == [n == 5 for n in range(10)]
        assert len(await db.scan("meta")) == 9

    with_storage(tmp_path, test)


def test_answers_keep_the_order_of_the_calls(tmp_path: Path) -> None:
    async def test(db: Asked) -> None:
        order: list[int] = []
        done = asyncio.Event()

        def reply(n: int) -> Callable[[Any], None]:
            return lambda result: (order.append(n), n == 99 and done.set(), None)[2]

        for n in range(100):
            if n % 3:
                db.storage.store([("meta", b"k", b"%d" % n)], reply(n))
            else:
                db.storage.load("meta", b"k", reply(n))
        await done.wait()
        assert order == list(range(100))

    with_storage(tmp_path, test)


def test_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED_BYTES", 10)

    async def test(db: Asked) -> None:
        results = await asyncio.gather(*(db.store(("meta", b"%d" % n, b"12345")) for n in range(3)))
        assert [result and result.kind for result in results] == [None, None, "io"]
        assert await db.store(("meta", b"later", b"12345")) is None

    with_storage(tmp_path, test)


def test_a_crash_between_data_and_row_claims_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder as it was at the moment of the sync, opened by the next process."""
    crashed = tmp_path / "crashed"

    def snapshot(handle: int) -> None:
        if not crashed.exists():
            shutil.copytree(tmp_path / "live", crashed)

    async def test(db: Asked) -> None:
        assert await db.store(("piece", key(0), b"a" * PIECE_SIZE)) is None
        monkeypatch.setattr(module, "_sync", snapshot)
        assert await db.store(("piece", key(1), b"b" * PIECE_SIZE)) is None

    async def after(db: Asked) -> None:
        assert (crashed / "pieces" / ROOT.hex()).stat().st_size == 2 * PIECE_SIZE
        assert await db.scan("piece") == [key(0)]
        assert await db.load("piece", key(1)) is None
        assert await db.store(("piece", key(1), b"c" * PIECE_SIZE)) is None
        assert await db.load("piece", key(1)) == b"c" * PIECE_SIZE

    with_storage(tmp_path / "live", test)
    with_storage(crashed, after)


def test_rows_whose_bytes_are_gone_are_not_believed(tmp_path: Path) -> None:
    async def test(db: Asked) -> None:
        await db.store(("piece", key(0), b"a" * PIECE_SIZE), ("piece", key(1), b"b" * PIECE_SIZE))
        os.truncate(tmp_path / "pieces" / ROOT.hex(), PIECE_SIZE + 5)
        assert await db.scan("piece", ROOT) == [key(0)]
        assert await db.load("piece", key(1)) is None
        (tmp_path / "pieces" / ROOT.hex()).unlink()
        assert await db.scan("piece", ROOT) == [] and await db.load("piece", key(0)) is None

    with_storage(tmp_path, test)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MiB, where the machine lets us mount one."""
    where = tmp_path / "small"
    where.mkdir()
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", where], capture_output=True)
    except OSError:
        pytest.skip("no mount command")
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    yield where
    subprocess.run(["umount", "-l", where], check=True)


def test_a_full_disk_says_what_to_do_and_recovers(small_disk: Path) -> None:
    async def test(db: Asked) -> None:
        kept = []
        for index in range(10):
            result = await db.store(("piece", key(index), bytes([index]) * PIECE_SIZE))
            if result is not None:
                break
            kept.append(key(index))
        assert result == Failure("quota", DISK_FULL)
        assert 0 < len(kept) < 5
        assert await db.scan("piece") == kept
        big = await db.store(*[("meta", b"%d" % n, os.urandom(50_000)) for n in range(40)])
        assert big == Failure("quota", DISK_FULL)
        assert await db.scan("meta") == []
        (small_disk / "pieces" / ROOT.hex()).unlink()  # room again
        assert await db.store(("piece", key(0), b"x" * 1000)) is None
        assert await db.load("piece", key(0)) == b"x" * 1000

    with_storage(small_disk, test)


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, "quota"), (errno.EDQUOT, "quota"), (errno.EIO, "io"), (errno.EFBIG, "io")]
)
def test_write_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: str) -> None:
    async def test(db: Asked) -> None:
        def fail(*args: object) -> int:
            raise OSError(number, "x")

        monkeypatch.setattr(os, "pwrite", fail)
        result = await db.store(("piece", key(0), b"x"))
        monkeypatch.undo()
        assert result.kind == kind and ("free some space" in result.message) == (kind == "quota")
        assert await db.scan("piece") == []

    with_storage(tmp_path, test)


def test_writes_that_take_only_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, data, offset: pwrite(handle, bytes(data)[:1000], offset))
    data = os.urandom(10_500)

    async def test(db: Asked) -> None:
        assert await db.store(("piece", key(3), data)) is None
        assert await db.load("piece", key(3)) == data

    with_storage(tmp_path, test)


def test_shared_files_are_read_where_they_lie(tmp_path: Path) -> None:
    path = tmp_path / "mine.bin"
    data = os.urandom(PIECE_SIZE + 77)
    path.write_bytes(data)

    async def test(db: Asked) -> None:
        await db.storage.add_external(ROOT, NAME, [Segment.of(path)])
        assert await db.scan("piece", ROOT) == [key(0), key(1)]
        assert await db.load("piece", key(0)) == data[:PIECE_SIZE]
        assert await db.load("piece", key(1)) == data[PIECE_SIZE:]
        assert await db.load("piece", key(2)) is None
        assert list((tmp_path / "d" / "pieces").iterdir()) == []

    async def changed(db: Asked) -> None:
        assert await db.load("piece", key(1)) == data[PIECE_SIZE:]  # it outlives the process
        os.utime(path, ns=(1, 1))
        result = await db.load("piece", key(0))
        assert result == Failure("io", "mine.bin changed since it was shared")
        path.unlink()
        assert await db.load("piece", key(0)) == Failure("io", "mine.bin is gone from where it was shared")
        await db.storage.remove_external(ROOT, NAME)
        assert await db.load("piece", key(0)) is None and await db.scan("piece") == []

    with_storage(tmp_path / "d", test)
    with_storage(tmp_path / "d", changed)


def test_shares_of_equal_bytes_keep_each_its_own_file(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"equal")
    two.write_bytes(b"equal")

    async def test(db: Asked) -> None:
        await db.storage.add_external(ROOT, NAME, [Segment.of(one)])
        await db.storage.add_external(ROOT, SECOND, [Segment.of(two)])
        one.unlink()
        assert await db.load("piece", key(0)) == b"equal"  # the other has it
        await db.storage.remove_external(ROOT, NAME)
        assert await db.load("piece", key(0)) == b"equal" and await db.scan("piece") == [key(0)]
        two.write_bytes(b"other")
        await db.storage.add_external(OTHER, NAME, [Segment.of(two)])
        assert await db.load("piece", key(0)) == Failure("io", "two changed since it was shared")
        await db.storage.remove_external(ROOT, SECOND)
        assert await db.scan("piece") == [key(0, OTHER)]

    with_storage(tmp_path / "d", test)


def test_a_share_of_many_files_is_read_across_them(tmp_path: Path) -> None:
    sizes = [0, 1, 1000, PIECE_SIZE, 0, 3 * PIECE_SIZE - 7, *range(1, 300)]
    files = [tmp_path / f"{number}" for number in range(len(sizes))]
    for path, size in zip(files, sizes, strict=True):
        path.write_bytes(os.urandom(size))
    own = b"manifest"
    whole = own + b"".join(path.read_bytes() for path in files)

    async def test(db: Asked) -> None:
        await db.storage.add_external(ROOT, NAME, [Segment.own(own), *map(Segment.of, files)])
        count = -(-len(whole) // PIECE_SIZE)
        assert await db.scan("piece", ROOT) == [key(index) for index in range(count)]
        assert b"".join([await db.load("piece", key(index)) for index in range(count)]) == whole
        assert await db.load("piece", key(count)) is None
        files[5].write_bytes(b"")  # only what lies in it is gone
        assert await db.load("piece", key(0)) == whole[:PIECE_SIZE]
        assert await db.load("piece", key(2)) == Failure("io", "5 changed since it was shared")

    with_storage(tmp_path / "d", test)


async def stored(db: Asked, data: bytes) -> None:
    for index in range(-(-len(data) // PIECE_SIZE)):
        assert await db.store(("piece", key(index), data[index * PIECE_SIZE : (index + 1) * PIECE_SIZE])) is None


@pytest.mark.parametrize("size", [0, 5, PIECE_SIZE, PIECE_SIZE * 2 + 1])
def test_a_finished_file_is_moved_out_and_served_on(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)

    async def test(db: Asked) -> None:
        await stored(db, data)
        out = tmp_path / "out" / "a.tar.gz"
        assert await db.storage.export(described(size), out) == out
        assert out.read_bytes() == data and out.stat().st_mode & 0o777 == 0o666 & ~umask
        assert list((tmp_path / "d" / "pieces").iterdir()) == []
        for index in range(-(-size // PIECE_SIZE)):
            assert await db.load("piece", key(index)) == data[index * PIECE_SIZE : (index + 1) * PIECE_SIZE]
        again = await db.storage.export(described(size), out)
        assert again.name == "a.tar (1).gz" and again.read_bytes() == out.read_bytes() == data
        assert {path.name for path in out.parent.iterdir()} == {"a.tar.gz", "a.tar (1).gz"}

    umask = os.umask(0)
    os.umask(umask)
    with_storage(tmp_path / "d", test)


@pytest.mark.parametrize("piece_size", [1024, 4096, PIECE_SIZE // 2])
@pytest.mark.parametrize("rest", [0, 1, 1023])
def test_a_file_in_smaller_pieces_is_saved_and_served_on(tmp_path: Path, piece_size: int, rest: int) -> None:
    data = os.urandom(3 * piece_size + rest)
    pieces = [data[at : at + piece_size] for at in range(0, len(data), piece_size)]

    async def test(db: Asked) -> None:
        for index in (1, 0, *range(2, len(pieces) - 1)):
            assert await db.store(("piece", key(index), pieces[index])) is None
        with pytest.raises(StorageError, match=f"1 of {len(pieces)} pieces are missing"):
            await db.storage.export(described(len(data), piece_size), tmp_path / "out")
        assert await db.store(("piece", key(len(pieces) - 1), pieces[-1])) is None
        out = await db.storage.export(described(len(data), piece_size), tmp_path / "out")
        assert out.read_bytes() == data and list((tmp_path / "d" / "pieces").iterdir()) == []
        assert await db.scan("piece", ROOT) == [key(index) for index in range(len(pieces))]
        assert [await db.load("piece", key(index)) for index in range(len(pieces))] == pieces
        assert await db.load("piece", key(len(pieces))) is None
        again = await db.storage.export(described(len(data), piece_size), tmp_path / "out")
        assert again.name == "out (1)" and again.read_bytes() == data
        assert [await db.load("piece", key(index)) for index in range(len(pieces))] == pieces

    with_storage(tmp_path / "d", test)


@pytest.mark.parametrize("version", [1, 2])
def test_a_folder_of_an_older_version_is_kept(tmp_path: Path, version: int) -> None:
    shared, copy = tmp_path / "file", tmp_path / "copy"
    shared.write_bytes(os.urandom(PIECE_SIZE + 9))
    copy.write_bytes(shared.read_bytes())
    status = shared.stat()

    async def before(db: Asked) -> None:
        await db.store(("meta", b"a", b"1"))

    async def after(db: Asked) -> None:
        assert await db.load("meta", b"a") == b"1"
        assert await db.load("piece", key(1)) == shared.read_bytes()[PIECE_SIZE:]

    async def shared_again(db: Asked) -> None:
        await db.storage.add_external(ROOT, NAME, [Segment.of(copy)])
        shared.unlink()
        assert await db.load("piece", key(1)) == copy.read_bytes()[PIECE_SIZE:]
        await db.storage.remove_external(ROOT, NAME)
        assert await db.scan("piece") == []

    with_storage(tmp_path / "d", before)
    with sqlite3.connect(tmp_path / "d" / "node.sqlite") as old:
        old.execute("DROP TABLE external")
        old.execute("DROP TABLE segments")
        old.execute(
            "CREATE TABLE shared (root BLOB PRIMARY KEY, path TEXT NOT NULL, size INTEGER NOT NULL,"
            " mtime_ns INTEGER NOT NULL) WITHOUT ROWID"
        )
        row = (ROOT, os.fsencode(shared), status.st_size, status.st_mtime_ns)
        old.execute("INSERT INTO shared VALUES (?, ?, ?, ?)", row)
        if version == 2:
            old.execute("ALTER TABLE shared ADD COLUMN piece_size INTEGER NOT NULL DEFAULT 262144")
        old.execute(f"PRAGMA user_version = {version}")
    old.close()
    for _ in range(2):
        with_storage(tmp_path / "d", after)
    with_storage(tmp_path / "d", shared_again)


def test_export_replaces_nothing_and_cleans_up_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(PIECE_SIZE + 5)
    out = tmp_path / "name"
    out.write_bytes(b"precious")

    async def test(db: Asked) -> None:
        await stored(db, data[:PIECE_SIZE])
        with pytest.raises(StorageError, match="1 of 2 pieces are missing"):
            await db.storage.export(described(len(data)), out)
        await db.store(("piece", key(1), data[PIECE_SIZE:]))

        def fail(*args: object) -> None:
            raise OSError(errno.ENOSPC, "x")

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", fail)
            with pytest.raises(StorageError, match="free some space"):
                await db.storage.export(described(len(data)), out)
        assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["name"]
        target = await db.storage.export(described(len(data)), out)
        assert target.name == "name (1)" and target.read_bytes() == data and out.read_bytes() == b"precious"

    with_storage(tmp_path / "d", test)


def test_export_over_a_file_systems_border(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(1000)
    replace = os.replace

    def foreign(source: Path, target: Path) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, "x")
        replace(source, target)

    monkeypatch.setattr(os, "replace", foreign)

    async def test(db: Asked) -> None:
        await stored(db, data)
        target = await db.storage.export(described(len(data)), tmp_path / "out" / "x")
        assert target.read_bytes() == data and [p.name for p in target.parent.iterdir()] == ["x"]
        assert list((tmp_path / "d" / "pieces").iterdir()) == []

    with_storage(tmp_path / "d", test)


def test_export_to_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    async def test(db: Asked) -> None:
        await stored(db, b"x")
        with pytest.raises(StorageError, match="the disk reports"):
            await db.storage.export(described(1), tmp_path / "file" / "x")

    with_storage(tmp_path / "d", test)


TREE = (
    Entry("a/one", PIECE_SIZE + 5),
    Entry("a/two", 0),
    Entry("b:/con", 7),
    Entry("b?/con", 9),
    Entry("empty/inner", None),
)


def collection(*entries: Entry) -> tuple[bytes, SharedFile, Collection]:
    """Bytes, description and contents."""
    manifest = encode_manifest(entries)
    data = manifest + os.urandom(sum(entry.size or 0 for entry in entries))
    info = FileInfo(ROOT, len(data), "tree", manifest_size=len(manifest))
    return data, SharedFile(NAME, bytes(32), bytes(32), info), Collection(info, entries)


def below(folder: Path) -> dict[str, bytes | None]:
    """What is in a folder, however deep; None for folders."""
    found = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in found}


def test_a_tree_is_saved_in_a_new_folder_and_served_from_there(tmp_path: Path) -> None:
    data, file, contents = collection(*TREE)
    out = tmp_path / "out" / "tree.v1"

    async def test(db: Asked) -> None:
        await stored(db, data)
        assert await db.storage.export_tree(file, contents, range(5), out) == out
        parts = [data[start:][: entry.size or 0] for entry, start in zip(TREE, contents.starts, strict=True)]
        assert below(out) == {
            **{"a": None, "a/one": parts[0], "a/two": b""},
            **{"b_": None, "b_/_con": parts[2], "b_ (1)": None, "b_ (1)/_con": parts[3]},
            **{"empty": None, "empty/inner": None},
        }
        assert (out.stat().st_mode & 0o777, (out / "a").stat().st_mode & 0o777) == (0o755, 0o755)
        assert list((tmp_path / "d" / "pieces").iterdir()) == []
        assert await db.load("piece", key(0)) == data[:PIECE_SIZE]
        assert await db.load("piece", key(1)) == data[PIECE_SIZE:]
        again = await db.storage.export_tree(file, contents, range(5), out)
        assert again.name == "tree.v1 (1)" and below(again) == below(out)

    umask = os.umask(0o022)
    with_storage(tmp_path / "d", test)
    os.umask(umask)


def test_a_part_of_a_tree_is_saved_and_its_pieces_stay(tmp_path: Path) -> None:
    data, file, contents = collection(*TREE)

    async def test(db: Asked) -> None:
        assert await db.store(("piece", key(1), data[PIECE_SIZE:])) is None
        with pytest.raises(StorageError, match="damaged"):  # the manifest is not here
            await db.storage.export_tree(file, contents, [2], tmp_path / "out")
        assert await db.store(("piece", key(0), data[:PIECE_SIZE])) is None
        await db.storage.export_tree(file, contents, [2, 4], tmp_path / "out")
        assert set(below(tmp_path / "out")) == {"b_", "b_/_con", "empty", "empty/inner"}
        assert await db.scan("piece") == [key(0), key(1)]
        assert (tmp_path / "d" / "pieces" / ROOT.hex()).exists()

    with_storage(tmp_path / "d", test)


def test_nothing_is_written_through_what_lies_in_the_target(tmp_path: Path) -> None:
    data, file, contents = collection(Entry("a/b", 5))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "out (1)").symlink_to(tmp_path / "nowhere")
    (tmp_path / "out (2)").write_bytes(b"precious")

    async def test(db: Asked) -> None:
        await stored(db, data)
        target = await db.storage.export_tree(file, contents, [0], tmp_path / "out")
        assert target.name == "out (3)" and below(target) == {"a": None, "a/b": data[-5:]}
        assert list((tmp_path / "elsewhere").iterdir()) == [] and not (tmp_path / "nowhere").exists()
        assert (tmp_path / "out (2)").read_bytes() == b"precious"

    with_storage(tmp_path / "d", test)


@pytest.mark.parametrize("fails", ["os.rename", "os.sync", "pynode.files.saved_paths"])
def test_a_tree_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    data, file, contents = collection(*TREE)
    out = tmp_path / "out"
    out.mkdir()

    def fail(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "x")

    async def test(db: Asked) -> None:
        await stored(db, data)
        with monkeypatch.context() as patch:
            patch.setattr(fails, fail)
            with pytest.raises(StorageError, match="free some space"):
                await db.storage.export_tree(file, contents, range(5), out / "tree")
        assert list(out.iterdir()) == []
        await db.storage.export_tree(file, contents, range(5), out / "tree")
        assert [path.name for path in out.iterdir()] == ["tree"]

    with_storage(tmp_path / "d", test)


def test_names_that_differ_in_case_are_apart_where_the_system_makes_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, file, contents = collection(Entry("A", 1), Entry("a", 2))

    async def test(db: Asked) -> None:
        await stored(db, data)
        apart = await db.storage.export_tree(file, contents, [0, 1], tmp_path / "one")
        assert set(below(apart)) == {"A", "a"}
        monkeypatch.setattr("pynode.files._folds", lambda folder: True)
        numbered = await db.storage.export_tree(file, contents, [0, 1], tmp_path / "two")
        assert {name: len(part or b"") for name, part in below(numbered).items()} == {"A": 1, "a (1)": 2}

    with_storage(tmp_path / "d", test)


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot use the data folder"):
        DiskStorage(tmp_path / "file")
    with_storage(tmp_path / "new", lambda db: db.scan("meta"))
    with sqlite3.connect(tmp_path / "new" / "node.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StorageError, match="newer version"):
        DiskStorage(tmp_path / "new")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "node.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match="cannot use the data folder"):
        DiskStorage(tmp_path / "bad")


def test_two_processes_share_a_folder(tmp_path: Path) -> None:
    async def main() -> None:
        one, two = DiskStorage(tmp_path), DiskStorage(tmp_path)
        a, b = Asked(one), Asked(two)
        await asyncio.gather(
            *(
                (a if n % 2 else b).store(("piece", key(n), bytes([n]) * 100), ("meta", b"%02d" % n, b""))
                for n in range(40)
            )
        )
        assert len(await a.scan("piece")) == len(await b.scan("meta")) == 40
        assert await a.load("piece", key(2)) == b"\x02" * 100
        await one.close()
        await two.close()

    asyncio.run(main())


def test_close_finishes_what_was_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        storage = DiskStorage(tmp_path)
        results: list[Any] = []
        for n in range(100):
            storage.store([("piece", key(n), b"x" * 1000)], results.append)
        await storage.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert results == [None] * 100

    asyncio.run(main())
    with_storage(tmp_path, lambda db: db.scan("piece"))
