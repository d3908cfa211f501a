"""What a relay of the Tor network tells the authorities: its server descriptor and its extra-info document (dir-spec
2.1; "Uploading server descriptors").

Does: sign both, hand them to each authority at the start, every 18 hours and when something changed, and again to one
that did not take them.
Does not: know what they say (relay.py), or make keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from convergence.crypto.keys import NodeKeys
from convergence.crypto.routersign import sign_descriptor, sign_extra_info
from convergence.errors import RemoteError
from convergence.events import DescriptorRefused, DescriptorTaken
from convergence.outbox import Outbox, Timer
from convergence.ports import Crypto, RsaKeyPair
from convergence.tor.network import DirectoryAddress
from convergence.tor.request import DocumentRequest
from convergence.tor.sources import DirectorySources
from convergence.wire.routerdesc import ExtraInfo, RouterDescriptor

PUBLISH_EVERY = 18 * 3600.0  # seconds; authorities forget what is older than a day
LIFETIME = 30 * 86400  # seconds for which the certificates in them are valid
RETRY_FIRST = 10.0  # seconds until an authority is asked again, doubled up to...
RETRY_MAX = 3600.0
MAX_ANSWER = 1 << 16  # bytes of what an authority says


class Publisher:
    """Args:
    keys: ours, with an RSA identity.
    onion: an RSA onion key, which authorities still ask for, and nobody uses.
    describe: what the descriptor says now, but for keys.
    statistics: lines of the extra-info document, keyword and arguments.

    Attributes:
        descriptor: as it was signed last; empty before.
    """

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        sources: DirectorySources,
        authorities: Iterable[DirectoryAddress],
        keys: NodeKeys,
        onion: RsaKeyPair,
        describe: Callable[[int], RouterDescriptor],
        statistics: Callable[[], tuple[tuple[str, str], ...]] = tuple,
    ) -> None:
        self.keys = keys
        self.descriptor = b""
        self._outbox = outbox
        self._crypto = crypto
        self._onion = onion
        self._describe = describe
        self._statistics = statistics
        self._uploads = [_Upload(outbox, sources, authority) for authority in authorities]
        self._published = 0
        self._timer: Timer | None = None

    def publish(self, now: float) -> None:
        """Sign what is to be said now, and hand it to all authorities."""
        # Authorities take only what is newer than what they have, to the second.
        self._published = max(int(now), self._published + 1)
        documents = self._sign(self._describe(self._published), now)
        for upload in self._uploads:
            upload.start(documents, now)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._outbox.call_at(now + PUBLISH_EVERY, self.publish)

    def stop(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for upload in self._uploads:
            upload.stop(now)

    def _sign(self, descriptor: RouterDescriptor, now: float) -> bytes:
        assert self.keys.rsa is not None
        rsa = self.keys.rsa
        expires = now + LIFETIME
        info = ExtraInfo(descriptor.nickname, descriptor.rsa_identity, descriptor.published, self._statistics())
        extra = sign_extra_info(self._crypto, self.keys, rsa, info, expires)
        full = replace(descriptor, extra_info=ExtraInfo.parse(extra).digests)
        self.descriptor = sign_descriptor(self._crypto, self.keys, rsa, full, expires, self._onion)
        return self.descriptor + extra


class _Upload:
    """To one authority."""

    def __init__(self, outbox: Outbox, sources: DirectorySources, authority: DirectoryAddress) -> None:
        self._outbox = outbox
        self._sources = sources
        self._authority = authority
        self._documents = b""
        self._request: DocumentRequest | None = None
        self._timer: Timer | None = None
        self._retry = RETRY_FIRST

    def start(self, documents: bytes, now: float) -> None:
        """Hand these over, in place of what was on its way."""
        self.stop(now)
        self._documents = documents
        self._retry = RETRY_FIRST
        self._send(now)

    def stop(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        request, self._request = self._request, None
        if request is not None:
            request.cancel(now)

    def _send(self, now: float) -> None:
        pipe = self._sources.connect_to(self._authority.target, now)
        self._request = DocumentRequest(
            self._outbox, pipe, "/tor/", (), MAX_ANSWER, self._done, now, upload=self._documents
        )

    def _done(self, result: bytes | RemoteError, now: float) -> None:
        self._request = None
        authority = self._authority.fingerprint.hex()
        if isinstance(result, bytes):
            self._outbox.emit(DescriptorTaken(authority))
            return
        self._outbox.emit(DescriptorRefused(authority, str(result)))
        self._timer = self._outbox.call_at(now + self._retry, self._send)
        self._retry = min(2 * self._retry, RETRY_MAX)
