"""The command line: `convergence COMMAND`.

Does: name all commands and options, parse arguments, hand them to the command. Help, completion and manual pages are
made from `parser`.
Does not: hold a command's logic; each command is a module of its own, imported once it is known which one runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from pynode import version
from pynode.cli.arguments import (
    host_name,
    identity,
    listen_address,
    local_end,
    page_origin,
    root_hash,
    seconds,
    stun_server,
    url_path,
    whole_number,
    ws_address,
)
from pynode.cli.output import shown

DEFAULT_PROXY = "127.0.0.1:1080"
DEFAULT_LOG = "docs/releases/log.txt"
DEFAULT_MOST = 64
"""Commands of `serve` that run at once."""
SHELLS = ("bash", "zsh", "fish")

_NODES = "no facilitator: a file, or a folder of files, of what `convergence relay --descriptor` writes"
_WHOSE_LISTS = "whose lists of nodes are believed; without it, whose come first (--site tells it)"


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line.

    Attributes:
        examples: for the manual page: what a command line does, and the line.
    """

    examples: Sequence[tuple[str, str]] = ()

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: {shown(message, 500)}. Try: {self.prog} --help\n")
        raise SystemExit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns its exit code."""
    # If one of these descriptors is closed, the event loop or a file would get its number.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))
    own, program = _split(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(own)
    arguments.program = program

    from pynode.cli.running import run_command  # not for --help: it takes the libraries of a node

    return run_command(arguments)


def _split(argv: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The command line, and what stands after -- : the program that `serve` runs, whose options are not ours."""
    if "serve" not in argv[:1] or "--" not in argv:
        return argv, ()
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


def parser() -> Parser:
    """All commands and options."""
    top = Parser(
        prog="convergence",
        description="Share files, fetch pages, carry any protocol, through onion circuits of a Convergence network.",
        epilog="`convergence COMMAND --help` tells more. $CONVERGENCE_SITE names the site where --site is left out.",
    )
    top.add_argument("--version", action="version", version=f"convergence {version()}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    _add_up(commands)
    _add_share(commands)
    _add_get(commands)
    _add_fetch(commands)
    _add_pipe(commands)
    _add_serve(commands)
    _add_forward(commands)
    _add_proxy(commands)
    _add_status(commands)
    _add_relay(commands)
    _add_facilitator(commands)
    _add_verify(commands)
    _add_mirror(commands)
    _add_release(commands)
    _add_completion(commands)
    return top


def _command(commands: Any, name: str, command: str, help: str, more: str = "", *, runs_node: bool = True) -> Parser:
    """A command. `command` is the module and the function that run it, as pynode/cli/running.py finds them."""
    one: Parser = commands.add_parser(name, help=help, description=f"{help} {more}".strip())
    one.set_defaults(command=command)
    one.add_argument("--json", action="store_true", help="one JSON object a line on standard output, for programs")
    if runs_node:
        one.add_argument("--config", metavar="FILE", help="settings (TOML)")
        one.add_argument("-v", "--verbose", action="count", help="log what happens; -vv: everything")
        one.add_argument("--no-rtc", action="store_true", help="no WebRTC links")
        one.add_argument(
            "--stun",
            type=stun_server,
            action="append",
            default=[],
            metavar="stun:HOST:PORT",
            help="a server to ask for the public address that WebRTC links need behind a NAT, and that sees it (none);"
            " may be given several times",
        )
    return one


def _add_up(commands: Any) -> None:
    one = _command(
        commands, "up", "up.up", "Run a whole network on this machine: facilitator, site, relays.", "Ctrl-C ends it."
    )
    one.add_argument("--relays", type=int, default=5, metavar="N", help="how many relays (5)")
    one.add_argument("--port", type=whole_number(0, 65535), default=8000, help="of the site (8000); 0: any free one")
    one.add_argument(
        "--host",
        default="127.0.0.1",
        help="where to listen (127.0.0.1). `up` is for this machine, or for commands in a plain-http network: "
        "browsers run the page from https or from their own machine only. A site with https needs "
        "`convergence facilitator` behind a proxy; relays join it by `convergence relay --site https://...`",
    )
    _add_public(one)
    one.add_argument("--data", metavar="DIR", help="where keys and the list of nodes are kept")
    one.add_argument("--dist", metavar="DIR", help="the page, as `python3 build.py build` wrote it")
    one.add_argument("--no-exit", action="store_true", help="no relay is an exit")
    _add_exit_allow(one)
    one.add_argument("--ready-file", metavar="FILE", help="write addresses and process ids to FILE once all is up")


def _add_public(one: Parser) -> None:
    one.add_argument(
        "--public", type=host_name, metavar="NAME", help="the name or address by which others reach this machine"
    )


def _add_exit_allow(one: Parser) -> None:
    one.add_argument(
        "--exit-allow",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="let exits reach this too (private addresses are refused otherwise); may be given several times",
    )


def _add_site(one: Parser) -> None:
    one.add_argument("--site", metavar="URL", help="the network's site (http://127.0.0.1:8000/)")


def _add_network(one: argparse.ArgumentParser) -> None:
    where = one.add_mutually_exclusive_group()
    where.add_argument("--site", metavar="URL", help="the network's site (http://127.0.0.1:8000/)")
    where.add_argument("--nodes", metavar="PATH", help=_NODES)


def _add_share(commands: Any) -> None:
    one = _command(
        commands,
        "share",
        "share.share",
        "Offer files and folders, print their link, serve them until Ctrl-C.",
        "Files are read where they lie; the same files get the same link again. Several, or a folder, have one link.",
    )
    one.add_argument("files", nargs="+", metavar="PATH")
    one.add_argument("--each", action="store_true", help="a link for each of them, in place of one for all")
    one.add_argument("--name", metavar="NAME", help="of the folder that receivers get (the folder's own)")
    one.add_argument("--qr", action="store_true", help="show each link as a QR code, too, for a phone's camera")
    one.add_argument(
        "--code",
        action="store_true",
        help="print a number and two words, too, to read over the telephone: `convergence get` takes them once, within"
        " an hour",
    )
    one.add_argument(
        "--group",
        action="store_true",
        help="--each, and they share circuits, for thousands of them: rendezvous points can tell then that one node has"
        " them",
    )
    _add_site(one)
    _add_tor(one, "serve them", "where links are kept")


def _add_get(commands: Any) -> None:
    one = _command(
        commands,
        "get",
        "get.get",
        "Fetch what a share link, or a word code, names.",
        "A run that was interrupted goes on where it stopped. Files are never overwritten.",
    )
    one.add_argument(
        "link",
        metavar="LINK",
        nargs="?",
        help="in quotes, or any text that has it, or a code such as 7-crossover-clockwork; else it is asked for, or"
        " read from standard input (-), so that nobody sees it in a list of processes",
    )
    one.add_argument(
        "-o", "--output", metavar="PATH", help="the folder to put the file in (this one), a new file, or - (to a pipe)"
    )
    one.add_argument("--list", action="store_true", help="show what is in it, and fetch no more than that takes")
    one.add_argument(
        "--only",
        metavar="PATTERN",
        action="append",
        help="of a folder only files and folders like this: 'photos', '*.pdf'; several times for several patterns",
    )
    one.add_argument("--share", action="store_true", help="share it on afterwards, until Ctrl-C")
    one.add_argument(
        "--wait", type=seconds, default=600, help="give up after so many seconds without a byte (600; 0: never)"
    )
    one.add_argument("--site", metavar="URL", help="use this site in place of the link's")
    _add_tor(one, "fetch it", "where unfinished files are kept")


def _add_fetch(commands: Any) -> None:
    one = _command(
        commands,
        "fetch",
        "fetch.fetch",
        "Fetch an http or https address through an exit.",
        "The body goes to standard output.",
    )
    one.add_argument("url", metavar="URL", help="https:// unless it says otherwise")
    one.add_argument("-o", "--output", metavar="FILE", help="write the body to a new file")
    one.add_argument("--ca", metavar="FILE", help="trust the certificates in FILE (PEM), in place of Mozilla's roots")
    _add_tor(one)
    _add_network(one)


def _add_tor(
    one: Parser, what: str = "reach the web", data: str = "with --tor: where guards, entries and the directory are kept"
) -> None:
    one.add_argument("--tor", action="store_true", help=f"{what} through the Tor network")
    one.add_argument(
        "--tor-network",
        metavar="FILE",
        help="its DirAuthority and FallbackDir lines, as in a torrc (the public network)",
    )
    one.add_argument(
        "--entry-node",
        action="store_true",
        help="with --tor: enter the Tor network through a node of the site's network, not through a guard",
    )
    one.add_argument("--data", metavar="DIR", help=data)


_ADDRESS = "hash:NAME (a public service), the address of a private one, or tcp://HOST:PORT (through an exit)"


def _add_wait(one: Parser) -> None:
    one.add_argument(
        "--wait", type=seconds, default=10, help="how long to go on looking when nobody offers the service (10 seconds)"
    )


def _add_pipe(commands: Any) -> None:
    one = _command(
        commands,
        "pipe",
        "pipe.pipe",
        "Join standard input and output to an address, through circuits.",
        "Exit code 0: both sides ended; 1: no connection; 3: it broke. With --json records go to standard error. A host"
        " behind an exit does not hear that standard input ended: it has to end the connection (or: --end-after).",
    )
    one.add_argument("address", metavar="ADDRESS", help=_ADDRESS)
    one.add_argument("--progress", action="store_true", help="show on standard error how much was carried")
    one.add_argument(
        "--end-after",
        type=seconds,
        metavar="SECONDS",
        help="tcp:// only: once standard input has ended, close when nothing came for so long (it waits for the host)",
    )
    _add_wait(one)
    _add_network(one)
    one.examples = (
        ("Send a folder to who serves that name:", "tar c folder | convergence pipe --progress hash:drop"),
        ("Log in through a private service of sshd's:", "ssh -o ProxyCommand='convergence pipe ADDRESS' home.example"),
    )


def _add_serve(commands: Any) -> None:
    one = _command(
        commands,
        "serve",
        "service.serve",
        "Offer what runs on this machine as a service, until Ctrl-C.",
        "The address is printed; `convergence pipe` and `convergence forward` connect to it. What stands after -- is"
        " run for each connection, like inetd: its standard input and output are the connection.",
    )
    one.usage = "convergence serve ADDRESS [options] (--to HOST:PORT | --to unix:PATH | -- COMMAND ...)"
    one.add_argument(
        "address",
        metavar="ADDRESS",
        help="hash:NAME: for all who know the name (anybody else may offer it too); private or private:NAME: for those"
        " whom you give the address, which proves that they reach you",
    )
    one.add_argument("--to", type=local_end, metavar="HOST:PORT|unix:PATH", help="where connections lead")
    one.add_argument(
        "--most",
        type=whole_number(1, 4096),
        default=DEFAULT_MOST,
        metavar="N",
        help=f"how many commands run at once ({DEFAULT_MOST})",
    )
    _add_network(one)
    one.add_argument("--data", metavar="DIR", help="where the keys of private services are kept")
    one.examples = (
        ("A web server, for those whom you give the address:", "convergence serve private:web --to 127.0.0.1:8080"),
        ("A socket, for all who know the name:", "convergence serve hash:chess --to unix:/run/chess.sock"),
        ("Unpack what comes, a process for each connection:", "convergence serve private:drop -- tar x -C incoming"),
    )


def _add_forward(commands: Any) -> None:
    one = _command(
        commands, "forward", "forward.forward", "Let a port of this machine lead to an address, until Ctrl-C."
    )
    one.add_argument("listen", type=local_end, metavar="LISTEN", help="PORT, HOST:PORT or unix:PATH")
    one.add_argument("address", metavar="ADDRESS", help=_ADDRESS)
    _add_wait(one)
    _add_network(one)
    one.examples = (
        ("A port of this machine:", "convergence forward 8333 'hash:Satoshi Nakamoto'"),
        ("A socket that only you can use:", "convergence forward unix:web.sock ADDRESS"),
    )


def _add_proxy(commands: Any) -> None:
    one = _command(
        commands,
        "proxy",
        "proxy.proxy",
        "Let programs of this machine use the network: one port that speaks SOCKS5, SOCKS4a and HTTP CONNECT.",
        "NAME.hash.conv leads to the service hash:NAME, other names through an exit. User names keep circuits apart.",
    )
    one.add_argument(
        "--listen", type=listen_address, default=DEFAULT_PROXY, metavar="HOST:PORT", help=f"({DEFAULT_PROXY})"
    )
    one.add_argument("--pac", metavar="FILE", help="write a file that tells browsers to use it")
    one.add_argument("--isolate-host", action="store_true", help="requests for different hosts share no circuit")
    one.add_argument("--isolate-port", action="store_true", help="requests for different ports share no circuit")
    _add_tor(one)
    _add_wait(one)
    _add_network(one)
    one.examples = (
        ("Fetch a page of a service:", "curl --proxy socks5h://127.0.0.1:1080 http://chess.hash.conv/"),
        (
            "As another user, on circuits of its own:",
            "curl --proxy socks5h://ann:x@127.0.0.1:1080 http://site.example/",
        ),
    )


def _add_status(commands: Any) -> None:
    help = "Show how a network is: its nodes and their health."
    _add_site(_command(commands, "status", "status.status", help, runs_node=False))


def _add_relay(commands: Any) -> None:
    one = _command(
        commands,
        "relay",
        "serve.relay",
        "Run one relay.",
        "Without --listen, --url and --public it has no address: other nodes introduce those who want a WebRTC link.",
    )
    one.add_argument(
        "--listen",
        type=listen_address,
        metavar="HOST:PORT",
        help="where WebSocket links are accepted (nowhere; with --no-rtc, --url or --public: 127.0.0.1, any free port)",
    )
    one.add_argument("--url", type=ws_address, help="what others dial, such as wss://node.example/")
    _add_public(one)
    where = one.add_mutually_exclusive_group()
    where.add_argument("--facilitator", type=ws_address, metavar="URL", help="such as wss://site.example/facilitator")
    where.add_argument("--site", metavar="URL", help="the network's site (http://127.0.0.1:8000/)")
    where.add_argument("--nodes", metavar="PATH", help=_NODES)
    one.add_argument(
        "--descriptor", metavar="FILE", help="with --nodes: where to write what this node says of itself, for others"
    )
    one.add_argument("--facilitator-identity", type=identity, metavar="HEX", help=_WHOSE_LISTS)
    one.add_argument(
        "--origin",
        type=page_origin,
        action="append",
        default=[],
        metavar="URL",
        help='a site whose pages may connect, besides the network\'s own; "*": all; may be given several times',
    )
    one.add_argument("--exit", action="store_true", help="be an exit too")
    _add_exit_allow(one)
    one.add_argument("--data", metavar="DIR", help="where its keys are kept")
    one.add_argument("--name", help="marks its log lines")
    one.add_argument("--parent-pipe", action="store_true", help=argparse.SUPPRESS)


def _add_facilitator(commands: Any) -> None:
    one = _command(commands, "facilitator", "serve.facilitator", "Run a facilitator and its site.")
    one.add_argument("--listen", type=listen_address, metavar="HOST:PORT", help="(127.0.0.1:8700)")
    _add_public(one)
    one.add_argument("--no-site", action="store_true", help="no page, only the facilitator")
    one.add_argument("--dist", metavar="DIR", help="the page, as `python3 build.py build` wrote it")
    one.add_argument("--data", metavar="DIR", help="where its identity and the nodes are kept")


def _add_verify(commands: Any) -> None:
    one = _command(
        commands,
        "verify",
        "verify.verify",
        "Fetch what sites serve, as a browser would, and say which file differs from what was published.",
        "Exit code 0: all of them serve the same, and what is expected.",
        runs_node=False,
    )
    one.add_argument("urls", nargs="+", metavar="URL")
    expected = one.add_mutually_exclusive_group()
    expected.add_argument("--root", type=root_hash, metavar="HASH", help="the root hash that they should have")
    expected.add_argument("--dist", metavar="DIR", help="the files that they should serve, as a build wrote them")


def _add_mirror(commands: Any) -> None:
    one = _command(
        commands,
        "mirror",
        "mirror.mirror",
        "Serve the published code to pages of any origin, or hand it on through the network.",
        "Every file is compared with the manifest first.",
    )
    one.add_argument("--dist", metavar="DIR", help="the files, as `python3 build.py build` or this command wrote them")
    one.add_argument("--listen", type=listen_address, metavar="HOST:PORT", help="(127.0.0.1:8080)")
    one.add_argument("--path", type=url_path, default="/", help="serve below this path (/)")
    one.add_argument("--network", metavar="URL", help="the site whose network pages from here join (none)")
    source = one.add_mutually_exclusive_group()
    source.add_argument(
        "--from",
        dest="sources",
        action="append",
        default=[],
        metavar="URL",
        help="first fetch the version in --root from this site into --dist; may be given several times",
    )
    source.add_argument("--get", dest="link", metavar="LINK", help="first fetch it by a share link, through circuits")
    source.add_argument("--share", action="store_true", help="serve nothing here: offer it through the network")
    one.add_argument("--root", type=root_hash, metavar="HASH", help="the root hash that it must have")
    one.add_argument("--fetch-only", action="store_true", help="end once it is fetched")
    one.add_argument(
        "--wait", type=seconds, default=600, help="--get: give up after so many seconds without a byte (600; 0: never)"
    )
    _add_site(one)
    one.add_argument("--data", metavar="DIR", help="where links and unfinished files are kept")


def _add_release(commands: Any) -> None:
    help = "Sign a build, check who signed it, make a key."
    steps = commands.add_parser("release", help=help, description=help)
    steps = steps.add_subparsers(title="steps", metavar="STEP", required=True, parser_class=Parser)
    one = _command(
        steps,
        "sign",
        "release.release_sign",
        "Add one signature to the record of this build's release, and its line to the log.",
        "Several people run it in turn, each with a build of their own.",
        runs_node=False,
    )
    one.add_argument("--key", required=True, metavar="FILE", help="a secret key of minisign's")
    one.add_argument("--dist", metavar="DIR", help="the build")
    one.add_argument(
        "--log",
        default=DEFAULT_LOG,
        metavar="FILE",
        help=f"the log of releases ({DEFAULT_LOG}); the record lies beside it",
    )
    one = _command(
        steps, "check", "release.release_check", "Say who signed a build, and whether that is enough.", runs_node=False
    )
    one.add_argument("--dist", metavar="DIR", help="the build, with release.json and releases.txt")
    one.add_argument("--after", metavar="DIR", help="judge as somebody does who runs this earlier build")
    one = _command(
        steps, "keygen", "release.release_keygen", "Make a key pair, as `minisign -G` does.", runs_node=False
    )
    one.add_argument("file", metavar="FILE", help="for the secret key; the public one goes to FILE.pub")
    one.add_argument("--no-password", action="store_true", help="for tests, and for keys that lie encrypted already")


def _add_completion(commands: Any) -> None:
    help = "Print a script that completes commands and options in a shell."
    one: Parser = commands.add_parser("completion", help=help, description=help)
    one.set_defaults(command="completion.completion", json=False)
    one.add_argument("shell", choices=SHELLS, metavar="SHELL", help=f"{', '.join(SHELLS[:-1])} or {SHELLS[-1]}")
    one.examples = (
        ("In ~/.bashrc:", 'eval "$(convergence completion bash)"'),
        ("In ~/.zshrc, after compinit:", 'eval "$(convergence completion zsh)"'),
        ("In ~/.config/fish/config.fish:", "convergence completion fish | source"),
    )
