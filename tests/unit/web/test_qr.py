"""The QR code that the command draws is one that another library makes, too."""

from __future__ import annotations

from convergence.wire.sharelink import ShareLink
from pynode.cli.share import qr_code
from tests.unit.web.javascript import javascript

HALVES = {" ": (True, True), "▀": (False, True), "▄": (True, False), "█": (False, False)}
"""Whether a character's upper and its lower half are dark."""
ALL_MASKS = """
    const draw = (maskPattern) => qr.encode(argument, { ecc: "L", boostEcc: false, border: 2, maskPattern }).data;
    return [0, 1, 2, 3, 4, 5, 6, 7].map(draw);
"""


def test_a_drawn_code_is_what_another_library_makes_of_the_link() -> None:
    link = ShareLink(bytes(range(32)), bytes(range(32, 64))).format("http://si.example")
    assert len(link) == 106, "it fills its code: the two pad others in different ways"
    lines = qr_code(link).splitlines()
    rows = [[HALVES[char][half] for char in line] for line in lines for half in (0, 1)]
    matrices = javascript(ALL_MASKS, link, qr="../node_modules/uqr/dist/index.mjs")
    size = len(matrices[0])
    assert {len(row) for row in rows} == {size}
    assert rows[:size] in matrices
