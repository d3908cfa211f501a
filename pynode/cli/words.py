"""What a command says for each code of the core.

Does: hold one table from codes to words, and fill in the values that come with a code.
Does not: decide when something is said. Sentences that ask for a second try do not say how: each command says that.
"""

from __future__ import annotations

from convergence.codes import (
    AddressFlaw,
    CodeWhy,
    ConnectWhy,
    Dropped,
    FacilitatorWhy,
    FetchStage,
    FetchWhy,
    FileFlaw,
    Gone,
    Limit,
    LinkFlaw,
    PathWhy,
    RtcWhy,
    StorageWhy,
    TlsWhy,
    TransferWhy,
    UrlFlaw,
)
from convergence.errors import Code, EndReason, LocalError, Problem, Why
from convergence.events import Trouble
from pynode.cli.output import sentence, shown, size_words

MAX_DETAIL = 300
"""Characters of what the core did not say itself."""

WORDS: dict[Code, str] = {
    LinkFlaw.NO_LINK: "There is no link here. Paste the link you were given.",
    LinkFlaw.SEVERAL: "There is more than one link here. Take one of them.",
    LinkFlaw.CUT: "The link has no part after a # sign: it was cut. Copy the whole link.",
    LinkFlaw.HALF: "The link is incomplete: its second half, after a dot, is missing. Copy the whole link.",
    LinkFlaw.SHORT_PART: "The {part} part of the link is incomplete. Copy the whole link.",
    LinkFlaw.LONG_PART: (
        "The {part} part of the link is too long or holds characters that do not belong in it. Copy the whole link."
    ),
    LinkFlaw.ALTERED_PART: "The {part} part of the link was altered. Ask for the link again.",
    LinkFlaw.SERVICE: "This is the address of a service, not the link of a file: use `convergence pipe`.",
    LinkFlaw.CODE_NUMBER: "The number of a code is 1 to {most}. Ask for it again.",
    LinkFlaw.CODE_SHORT: "A code has a number and two words, such as 7-crossover-clockwork.",
    LinkFlaw.CODE_ORDER: "The two words of the code are in the wrong order: the other one comes first.",
    LinkFlaw.CODE_WORD: 'No code has the word "{word}" in this place. Ask how it is spelled.',
    CodeWhy.GUESSED: "Somebody tried the code with wrong words, so it is used up. A new one follows.",
    CodeWhy.BROKEN: "Somebody used the code, and the connection broke before they had the link. A new one follows.",
    CodeWhy.GUESSED_OFTEN: "Somebody keeps trying wrong words: there is no other code. Send the link instead.",
    CodeWhy.HANDED_OVER: "The code was used: they have the link.",
    CodeWhy.EXPIRED: "The code was not used in time and is good for nothing now. The link still is.",
    CodeWhy.NO_NUMBER: "Somebody else holds every number that was tried for a code. Send the link instead.",
    CodeWhy.NOBODY: "Nobody offers this code: they may have stopped, or the code was used already.",
    CodeWhy.WRONG: (
        "The words are not those of the code, or somebody else answered in its place. It is used up: ask for a new one."
    ),
    AddressFlaw.NO_ADDRESS: "There is no address here: give hash:NAME, tcp://HOST:PORT or a private address.",
    AddressFlaw.NO_HOST: "This is no host and port: it should look like tcp://example.org:443",
    AddressFlaw.NO_NAME: "The name of the service is missing: it should look like hash:my service",
    AddressFlaw.LONG_NAME: "The name of the service is too long: it may have {most} bytes.",
    AddressFlaw.CHARACTERS: "The name of the service has characters that do not belong in it.",
    AddressFlaw.FILE: "This is the link of a file, not the address of a service.",
    AddressFlaw.NO_KEY: "The name before .key.conv is not the key of a service: copy the whole name.",
    AddressFlaw.NO_SECRET: "Only its owner can serve this address.",
    AddressFlaw.SERVED: "This address is served already.",
    UrlFlaw.TOO_LONG: "This address is too long.",
    UrlFlaw.NO_URL: "This is not a web address: it should look like https://example.org/page",
    UrlFlaw.HTTPS: "https pages cannot be fetched here: try the address with http://",
    UrlFlaw.DOWNGRADE: "The address leads from https to http, where everybody could read it.",
    UrlFlaw.CHARACTERS: "This address has characters that need to be percent-encoded.",
    FileFlaw.TOO_LARGE: "It is too large: a file has at most {most}.",
    FileFlaw.MANY_ENTRIES: "It holds too many files: {most} can be shared under one link.",
    FileFlaw.SAME_NAME: "Two of them have the name {name}: rename one, or share the folder that both are in.",
    FileFlaw.DEEP: "{name} lies too deep: a path has at most {most} parts.",
    FileFlaw.NOT_DESCRIBED: "Its name or size cannot be described.",
    Limit.SHARES: "No more than {most} files can be shared at once.",
    Limit.TRANSFERS: "No more than {most} files can be fetched at once: wait for one to finish.",
    Limit.FETCHES: "No more than {most} addresses can be fetched at once: wait for one to finish.",
    Limit.SERVICES: "No more than {most} services can be offered or used at once.",
    Limit.CONNECTIONS: "No more than {most} connections to one service can be open at once: end some.",
    Limit.CODES: "No more than {most} codes can be offered or used at once.",
    Gone.TRANSFER: "There is no such transfer.",
    Gone.SHARE: "This file is not shared.",
    Gone.FILE: "This file has not arrived yet.",
    TransferWhy.LOOKING: "Looking for somebody who shares this file.",
    TransferWhy.CONNECTED: "Connected to a sender.",
    TransferWhy.SENDER_AWAY: "The sender is away. The transfer goes on when the sender is back.",
    TransferWhy.SENDER_BUSY: "The sender is busy, and its queue is full.",
    TransferWhy.IN_QUEUE: "The sender is busy. Place in its queue: {position}.",
    TransferWhy.STOPPED: "Stopped.",
    TransferWhy.NO_ROOM: "There is no room left to store this file. Free some space.",
    TransferWhy.STORAGE: "This file could not be read from or written to the disk.",
    TransferWhy.NOBODY: "Nobody shares this file right now.",
    TransferWhy.MISLED: "What was found is not what this link is for. Ask the sender for the link again.",
    TransferWhy.NO_POINTS: "No meeting point can be reached. Check your connection.",
    TransferWhy.WAITED_LONG: "The sender did not come back.",
    TransferWhy.BAD_MANIFEST: "What this link says of its files contradicts itself. Nothing of it was saved.",
    TransferWhy.UNKNOWN_KIND: "This link is for a file that this version cannot fetch.",
    Dropped.OTHER_FILE: "A sender described another file than the link's.",
    Dropped.WRONG_BYTES: "A sender sent wrong bytes.",
    Dropped.NO_MESSAGE: "A sender sent something that is no valid message.",
    Dropped.NOT_ASKED: "A sender sent a piece that nobody asked for.",
    Dropped.SILENT: "A sender gave nothing for long.",
    Dropped.SLOW: "A slow sender was left for a faster one.",
    Dropped.QUEUED: "A sender let this node wait for long. It looks for another.",
    Dropped.STOPPED: "A sender stopped sending.",
    PathWhy.FEW_RELAYS: "No circuit could be built: {needed} relays are needed, {known} are known.",
    PathWhy.OUT_OF_REACH: (
        "No circuit could be built: of {known} known relays none can be reached from here: it takes {way}."
    ),
    PathWhy.NO_ENTRY: "No circuit could be built: no relay is known that may be the entry here.",
    PathWhy.NO_PATH: (
        "No circuit could be built: no path leads through the relays that are known."
        " One is needed that has an address and speaks WebRTC too."
    ),
    PathWhy.NODES_SILENT: "No circuit could be built: nobody told in time which nodes there are.",
    PathWhy.NOT_DIRECT: "No circuit could be built: the node cannot be reached directly.",
    PathWhy.NO_EXIT: "No exit is known that could fetch this: the network needs a node with the role exit.",
    PathWhy.ENTRY_SILENT: "No circuit could be built: the first relay of the path could not be reached.",
    PathWhy.RELAY_SILENT: "No circuit could be built: a relay of the path did not answer.",
    PathWhy.NO_CONSENSUS: "No circuit could be built: there is no list of Tor's relays that is still valid.",
    PathWhy.FEW_DESCRIPTORS: (
        "No circuit could be built: too few of Tor's relays are known. They allow {known} % of all paths,"
        " {needed} % are needed."
    ),
    PathWhy.NO_GUARD_DESCRIPTOR: (
        "No circuit could be built: the keys of the relay that circuits begin with are not known yet."
    ),
    PathWhy.NO_TOR_POINT: (
        "No rendezvous point of this network can be reached through the Tor network: one has to take TLS links (a relay"
        " with node.tls)."
    ),
    PathWhy.NO_TOR_ENTRY: (
        "No node of this network leads into the Tor network: try again later, or run one (a relay with tor.entry)."
    ),
    FacilitatorWhy.LOST: "The connection to the facilitator was lost{detail}.",
    FacilitatorWhy.UNREACHABLE: "The facilitator cannot be reached{detail}.",
    FacilitatorWhy.SILENT: "The facilitator does not answer.",
    FacilitatorWhy.UNUSABLE: "The facilitator's answer cannot be used{detail}.",
    FacilitatorWhy.REFUSES: "The facilitator refuses{detail}.",
    FacilitatorWhy.NOT_REACHED: (
        "The facilitator cannot reach this node at its address, so that others are not told of it:"
        " check --url and the firewall."
    ),
    FacilitatorWhy.NEWCOMERS: (
        "Unusually many nodes join just now, so each does some work before others are told of it: about {percent} % of"
        " this node's is done."
    ),
    FacilitatorWhy.LEAVES_OUT: ("The facilitator says that it lists this node, and shows others a network without it."),
    FacilitatorWhy.OLD: "The facilitator shows this node an old state of the network, not the present one.",
    FacilitatorWhy.CONTRADICTS: (
        "The facilitator contradicts itself: it has shown others another network, or somebody has its key."
    ),
    FacilitatorWhy.FALSE_VALUE: (
        "The facilitator did not draw today's random value as it had announced: it has chosen which nodes meet whom,"
        " or somebody has its key."
    ),
    FacilitatorWhy.HIDES_DRAW: (
        "The facilitator does not show how today's random value was drawn: it may have chosen which nodes meet whom."
    ),
    FacilitatorWhy.CLOCK: "This machine's clock is {clock} the network's. Set it, and the node goes on by itself.",
    StorageWhy.SHARE: "The file cannot be shared{detail}.",
    StorageWhy.RESTORE: "What was kept from earlier cannot be read{detail}.",
    StorageWhy.UNSHARE: "What belonged to a share could not be deleted{detail}.",
    ConnectWhy.NOBODY: "Nobody offers this service now: check the address, or try again when its owner is online.",
    ConnectWhy.BUSY: "The service takes no more connections now: try again later.",
    ConnectWhy.MISLED: "Whoever answers for this address cannot prove to be its owner: ask for the address again.",
    ConnectWhy.NO_POINTS: "No meeting point of this service can be reached: check your connection.",
    ConnectWhy.TIMEOUT: "The service did not answer in time: try again.",
    ConnectWhy.STOPPED: "This node is stopping.",
    FetchStage.CIRCUIT: "Building a circuit to an exit",
    FetchStage.OTHER_EXIT: "Trying another exit",
    FetchStage.ASKING: "Asking the site",
    FetchWhy.CANCELLED: "Cancelled.",
    FetchWhy.POLICY: "The exit does not allow this address: try another address, or run an exit that allows it.",
    FetchWhy.NO_HOST: "There is no such host: check the address.",
    FetchWhy.REFUSED: "The site refused the connection: it may be down.",
    FetchWhy.TIMEOUT: "The site did not answer in time.",
    FetchWhy.NO_ROUTE: "The exit cannot reach the site.",
    FetchWhy.CUT: "The site cut the connection.",
    FetchWhy.PATH_BROKE: "The path through the network broke: try again.",
    FetchWhy.BUSY: "The exit is too busy: try again.",
    FetchWhy.EXIT_FAILED: "The exit failed: try again.",
    FetchWhy.INCOMPLETE: "The site closed the connection in the middle of its answer: try again.",
    FetchWhy.NOT_HTTP: "The site's answer is not http.",
    FetchWhy.TOO_LARGE: "This is larger than can be fetched here.",
    FetchWhy.CIRCLE: "The site redirects in a circle.",
    FetchWhy.BAD_REDIRECT: "The site redirects to an address that cannot be fetched. {flaw}",
    TlsWhy.EXPIRED: "The site's certificate has expired: if this machine's clock is right, the site has to renew it.",
    TlsWhy.NOT_YET: "The site's certificate is not valid yet: check this machine's clock.",
    TlsWhy.WRONG_HOST: "The site's certificate is for another name: this may not be the site that it says it is.",
    TlsWhy.SELF_SIGNED: "The site vouches for itself: {nobody} signed its certificate.",
    TlsWhy.UNKNOWN_ROOT: "The site's certificate comes from {nobody}, or is sent without its chain.",
    TlsWhy.REVOKED: "The site's certificate comes from an authority that was revoked.",
    TlsWhy.WEAK: "The site's certificate has a key or a signature that is too weak.",
    TlsWhy.BAD_CERTIFICATE: "The site's certificate cannot be accepted.",
    TlsWhy.OLD: "The site only speaks an old version of TLS, which is not safe any more.",
    TlsWhy.REFUSED: "The site refused the encrypted connection.",
    TlsWhy.GARBAGE: "What came is not TLS, or was altered on its way.",
    TlsWhy.TRUNCATED: "The connection was cut: what came may be incomplete. Try again.",
    TlsWhy.CUT: "The site cut the connection before TLS began: check whether it speaks https at this port.",
    TlsWhy.SILENT: "The site did not answer in time.",
    TlsWhy.NO_HOST: "There can be no certificate for this name.",
    TlsWhy.UNAVAILABLE: "This program's part for encrypted pages could not be loaded: try again.",
    RtcWhy.NONE: "",
    RtcWhy.SHELL: "The connection failed{detail}.",
    RtcWhy.STOPPING: "This node stops.",
    RtcWhy.USELESS_OFFER: "What this side offers is of no use.",
    RtcWhy.TOO_EARLY: "The channel opened before it was described.",
    RtcWhy.NO_CONNECTION: "No connection came about in time.",
    RtcWhy.OTHER_CERTIFICATE: "The other side came back with another certificate.",
    RtcWhy.UNKNOWN_NODE: "The introducer does not know the node.",
    RtcWhy.BUSY: "The introducer has too much to do.",
    RtcWhy.REFUSED: "The introducer refuses.",
    RtcWhy.NO_CARRIER: "There is nobody to introduce the two nodes.",
    RtcWhy.NO_ANSWER: "Nobody who was asked brought an answer.",
}


ENDS: dict[int, str] = {
    EndReason.MISC: "The far side gave up: what it leads to may have failed.",
    EndReason.DONE: "The far side closed the connection before it said that it was done.",
    EndReason.CONNRESET: "The far side cut the connection.",
    EndReason.CONNECTREFUSED: "What the far side leads to takes no connection: it may not be running.",
    EndReason.RESOLVEFAILED: "There is no such host: check the address.",
    EndReason.EXITPOLICY: "No exit allows this address: try another one.",
    EndReason.NOROUTE: "The far side cannot reach it.",
    EndReason.TIMEOUT: "The far side did not answer in time.",
    EndReason.DESTROY: "The path through the network broke: try again.",
    EndReason.RESOURCELIMIT: "The far side is too busy: try again later.",
    EndReason.HIBERNATING: "The far side is resting: try again later.",
    EndReason.TORPROTOCOL: "What came was not what the far side sent: the connection was ended.",
}
"""What ended a connection -> words."""


def words(why: Why | Code, trusted: str | None = None) -> str:
    """The sentence for a code and its values. `trusted`: the file of certificates that took the place of Mozilla's."""
    if isinstance(why, Code):
        why = Why(why)
    nobody = "nobody whom Mozilla trusts" if trusted is None else f"nobody whom {shown(trusted)} names"
    values: dict[str, object] = {**why.values, "nobody": nobody}
    if isinstance(most := values.get("most"), int) and why.code is FileFlaw.TOO_LARGE:
        values["most"] = size_words(most)
    if isinstance(flaw := values.get("flaw"), Code):
        values["flaw"] = WORDS[flaw]
    if isinstance(schemes := values.get("schemes"), str):
        ways = [f"a {scheme}:// address" for scheme in schemes.split()] + ["WebRTC"] * bool(values["rtc"])
        values["way"] = " or ".join(ways)
    if isinstance(ahead := values.get("ahead"), int):
        values["clock"] = _difference(ahead)
    detail = shown(str(values.get("detail") or ""), MAX_DETAIL).rstrip(".")
    values["detail"] = f": {detail}" if detail else ""
    return WORDS[why.code].format(**values)


def _difference(ahead: int) -> str:
    """How a clock differs, such as "1 d 2 h 3 min ahead of"."""
    minutes = max(1, round(abs(ahead) / 60))
    parts = ((minutes // 1440, "d"), (minutes // 60 % 24, "h"), (minutes % 60, "min"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number) + (" ahead of" if ahead > 0 else " behind")


def trouble_words(trouble: Trouble) -> str:
    return words(trouble.why) + " Trying again." * trouble.retrying


def error_words(error: LocalError) -> str:
    """The sentence for an exception that a command of the core raised."""
    return words(error.why) if isinstance(error, Problem) else sentence(str(error))


def end_words(code: int) -> str:
    """Why a connection broke."""
    return ENDS.get(code, f"The far side gave up (code {code}).")


def connect_words(why: Why | None, code: int) -> str:
    """Why a connection could not be made."""
    return words(why) if why is not None else end_words(code)
