"""A relay of the Tor network in this process: what it needs to start, and its onion key that changes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from pynode import torrelay
from pynode.app import AppError
from pynode.config import Address, Limits, Tor
from pynode.keyfile import ONION_LIFETIME
from pynode.torrelay import TorRelayApp

NOBODY = f"DirAuthority nobody orport=1 no-v2 v3ident={'A' * 40} 127.0.0.1:1 {'B' * 40}\n"


def app_in(folder: Path, text: str = NOBODY) -> TorRelayApp:
    network = folder / "network.txt"
    network.write_text(text)
    return TorRelayApp(folder / "data", Address("127.0.0.1", 0), Tor(network=network, private=True), Limits())


def test_it_keeps_its_identities(tmp_path: Path) -> None:
    async def name() -> tuple[str, bytes]:
        app = app_in(tmp_path)
        await app.start()
        try:
            return app.fingerprint, app.relay.publisher.keys.identity
        finally:
            await app.stop()

    assert asyncio.run(name()) == asyncio.run(name())
    assert {"identity.json", "onion.json", "rsa.pem"} <= {file.name for file in (tmp_path / "data").iterdir()}


def test_its_onion_key_is_changed_when_it_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torrelay, "LOOK_EVERY", 0.01)
    file = tmp_path / "data" / "onion.json"

    async def test() -> None:
        app = app_in(tmp_path)
        await app.start()
        try:
            before = app.relay.publisher.keys
            kept = json.loads(file.read_text())
            file.write_text(json.dumps(kept | {"made": kept["made"] - ONION_LIFETIME}))
            async with asyncio.timeout(30):
                while app.relay.publisher.keys is before:
                    await asyncio.sleep(0.01)
            after = app.relay.publisher.keys
            assert after.previous == (before.ntor_public, before.ntor_secret)
            assert (after.identity, after.signing, after.rsa) == (before.identity, before.signing, before.rsa)
            assert app.relay.relaying.keys is after
        finally:
            await app.stop()

    asyncio.run(test())


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "there is no DirAuthority"), ("DirAuthority nobody", "needs v3ident=HEX")],
)
def test_a_file_that_names_no_network_is_told(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(AppError, match=words):
        asyncio.run(app_in(tmp_path, text).start())


def test_keys_that_are_damaged_are_told_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "rsa.pem").write_text("no key")
    with pytest.raises(AppError, match="damaged"):
        asyncio.run(app_in(tmp_path).start())
    assert (tmp_path / "data" / "rsa.pem").read_text() == "no key"
