"""All that a node may have to tell people, as codes.

Does: name each. A code's comment says which values come with it (`errors.Why`).
Does not: hold words: pynode/cli/words.py has them for commands, web/ui/messages.js for pages. A test checks
that both have words for each code.
"""

from __future__ import annotations

from convergence.errors import Code


class LinkFlaw(Code):
    """What is wrong with a share link. `part`: "first" or "second"."""

    NO_LINK = "link-none"
    SEVERAL = "link-several"
    CUT = "link-cut"
    HALF = "link-half"
    SHORT_PART = "link-part-short"  # part
    LONG_PART = "link-part-long"  # part
    ALTERED_PART = "link-part-altered"  # part
    SERVICE = "link-service"  # it is the address of a service
    # Of a word code (wire/wordcode.py):
    CODE_NUMBER = "code-number"  # most
    CODE_SHORT = "code-short"
    CODE_ORDER = "code-order"
    CODE_WORD = "code-word"  # word


class CodeWhy(Code):
    """What became of a word code."""

    # Its giver is told:
    GUESSED = "code-guessed"  # left: how many codes may still follow
    BROKEN = "code-broken"  # left
    GUESSED_OFTEN = "code-guessed-often"
    HANDED_OVER = "code-handed-over"
    EXPIRED = "code-expired"
    NO_NUMBER = "code-no-number"
    # Whoever has it is told:
    NOBODY = "code-nobody"
    WRONG = "code-wrong"


class AddressFlaw(Code):
    """What is wrong with the address of a pipe, besides what is wrong with a link."""

    NO_ADDRESS = "address-none"
    NO_HOST = "address-host"
    NO_NAME = "address-name-none"
    LONG_NAME = "address-name-long"  # most: bytes
    CHARACTERS = "address-characters"
    FILE = "address-file"  # it is the link of a file
    NO_KEY = "address-key"
    NO_SECRET = "address-secret"  # only its owner can serve it
    SERVED = "address-served"  # this node serves it already


class UrlFlaw(Code):
    """What is wrong with an address to fetch."""

    TOO_LONG = "url-long"
    NO_URL = "url-none"
    HTTPS = "url-https"  # this node cannot speak it
    DOWNGRADE = "url-downgrade"  # from https to http
    CHARACTERS = "url-characters"


class FileFlaw(Code):
    """Why a file cannot be shared."""

    TOO_LARGE = "file-large"  # most: bytes
    MANY_ENTRIES = "file-many-entries"  # most
    SAME_NAME = "file-same-name"  # name: a path
    DEEP = "file-deep"  # name: a path; most: its parts
    NOT_DESCRIBED = "file-not-described"  # detail: for developers


class Limit(Code):
    """There are `most` already."""

    SHARES = "limit-shares"
    TRANSFERS = "limit-transfers"
    FETCHES = "limit-fetches"
    SERVICES = "limit-services"
    CONNECTIONS = "limit-connections"
    CODES = "limit-codes"


class Gone(Code):
    """What a command names is not there (any more)."""

    TRANSFER = "gone-transfer"
    SHARE = "gone-share"
    FILE = "gone-file"  # it has not arrived


class TransferWhy(Code):
    """What a transfer waits for, or why it stopped."""

    LOOKING = "looking"
    CONNECTED = "connected"
    SENDER_AWAY = "sender-away"
    SENDER_BUSY = "sender-busy"  # all places are taken, and all in the queue
    IN_QUEUE = "in-queue"  # position: 1 for the next
    NOBODY = "nobody"
    NO_POINTS = "no-points"
    STOPPED = "stopped-here"
    NO_ROOM = "no-room"  # pauses
    STORAGE = "storage-broken"  # pauses
    MISLED = "misled"  # fails, as do those below
    WAITED_LONG = "waited-long"
    UNKNOWN_KIND = "unknown-kind"
    BAD_MANIFEST = "bad-manifest"


class Dropped(Code):
    """Why a transfer dropped a source."""

    OTHER_FILE = "source-other-file"
    WRONG_BYTES = "source-wrong-bytes"
    NO_MESSAGE = "source-no-message"
    NOT_ASKED = "source-not-asked"
    SILENT = "source-silent"
    SLOW = "source-slow"
    QUEUED = "source-queued"
    STOPPED = "source-stopped"


class PathWhy(Code):
    """Why no circuit could be built."""

    FEW_RELAYS = "few-relays"  # needed, known
    OUT_OF_REACH = "out-of-reach"  # known; schemes: "ws wss"; rtc: bool
    NO_ENTRY = "no-entry"
    NO_PATH = "no-path"
    NODES_SILENT = "nodes-silent"  # nobody told in time which nodes there are
    NOT_DIRECT = "not-direct"
    NO_EXIT = "no-exit"
    ENTRY_SILENT = "entry-silent"
    RELAY_SILENT = "relay-silent"
    NO_CONSENSUS = "no-consensus"
    FEW_DESCRIPTORS = "few-descriptors"  # needed, known: percent of all paths
    NO_GUARD_DESCRIPTOR = "no-guard-descriptor"
    NO_TOR_POINT = "no-tor-point"
    NO_TOR_ENTRY = "no-tor-entry"


class FacilitatorWhy(Code):
    """What is wrong with the facilitator. `detail`: the shell's own words, or the facilitator's."""

    LOST = "facilitator-lost"  # detail
    UNREACHABLE = "facilitator-unreachable"  # detail
    SILENT = "facilitator-silent"
    UNUSABLE = "facilitator-unusable"  # detail
    REFUSES = "facilitator-refuses"  # detail
    NOT_REACHED = "facilitator-not-reached"
    LEAVES_OUT = "facilitator-leaves-out"
    OLD = "facilitator-old"
    CONTRADICTS = "facilitator-contradicts"  # first, second: the proof, two headers in hex
    FALSE_VALUE = "facilitator-false-value"  # first, second, draw: the proof, two headers and the draw in hex
    HIDES_DRAW = "facilitator-hides-draw"
    NEWCOMERS = "facilitator-newcomers"  # percent: how far this node is with what is asked of newcomers
    CLOCK = "facilitator-clock"  # ahead: seconds by which this machine's clock is ahead of it; below zero: behind


LIES = (FacilitatorWhy.CONTRADICTS, FacilitatorWhy.FALSE_VALUE, FacilitatorWhy.LEAVES_OUT)
"""What does not pass by itself: people have to decide whom they trust."""


class StorageWhy(Code):
    """What failed in storage. `failure`: kind of the Failure; `detail`: the shell's own words."""

    SHARE = "storage-share"  # failure, detail
    RESTORE = "storage-restore"  # failure, detail
    UNSHARE = "storage-unshare"  # failure, detail


class ConnectWhy(Code):
    """Why a connection to a service could not be made, besides what is wrong with a path (PathWhy)."""

    NOBODY = "connect-nobody"
    BUSY = "connect-busy"
    MISLED = "connect-misled"
    NO_POINTS = "connect-no-points"
    TIMEOUT = "connect-timeout"
    STOPPED = "connect-stopped"


class FetchStage(Code):
    """How far a fetch has come."""

    CIRCUIT = "fetch-circuit"
    OTHER_EXIT = "fetch-other-exit"
    ASKING = "fetch-asking"


class FetchWhy(Code):
    """Why a fetch failed, besides what is wrong with an address (UrlFlaw) and with a path (PathWhy)."""

    CANCELLED = "fetch-cancelled"
    POLICY = "fetch-policy"
    NO_HOST = "fetch-no-host"
    REFUSED = "fetch-refused"
    TIMEOUT = "fetch-timeout"
    NO_ROUTE = "fetch-no-route"
    CUT = "fetch-cut"
    PATH_BROKE = "fetch-path-broke"
    BUSY = "fetch-busy"
    EXIT_FAILED = "fetch-exit-failed"
    INCOMPLETE = "fetch-incomplete"
    NOT_HTTP = "fetch-not-http"
    TOO_LARGE = "fetch-large"
    CIRCLE = "fetch-circle"
    BAD_REDIRECT = "fetch-bad-redirect"  # flaw: a UrlFlaw


class TlsWhy(Code):
    """Why a TLS connection failed."""

    EXPIRED = "tls-expired"
    NOT_YET = "tls-not-yet"
    WRONG_HOST = "tls-wrong-host"
    SELF_SIGNED = "tls-self-signed"
    UNKNOWN_ROOT = "tls-unknown-root"
    REVOKED = "tls-revoked"
    WEAK = "tls-weak"
    BAD_CERTIFICATE = "tls-bad-certificate"
    OLD = "tls-old"
    REFUSED = "tls-refused"
    GARBAGE = "tls-garbage"
    TRUNCATED = "tls-truncated"
    CUT = "tls-cut"
    SILENT = "tls-silent"
    NO_HOST = "tls-no-host"
    UNAVAILABLE = "tls-unavailable"


class RtcWhy(Code):
    """Why a WebRTC link failed or ended."""

    NONE = "rtc-none"
    SHELL = "rtc-shell"  # detail: the shell's own words
    STOPPING = "rtc-stopping"
    USELESS_OFFER = "rtc-useless-offer"
    TOO_EARLY = "rtc-too-early"
    NO_CONNECTION = "rtc-no-connection"
    OTHER_CERTIFICATE = "rtc-other-certificate"
    UNKNOWN_NODE = "rtc-unknown-node"
    BUSY = "rtc-busy"
    REFUSED = "rtc-refused"
    NO_CARRIER = "rtc-no-carrier"
    NO_ANSWER = "rtc-no-answer"
