"""How much a relay carried on each of the last days, as extra-info documents tell it (dir-spec 2.1.2).

Does: count by days of UTC, of which only whole ones are told, rounded down; so it says of nobody when they were active.
Does not: keep anything over a restart, or count by country, port or user: relays of C Tor may tell that, ours do not.
"""

from __future__ import annotations

from convergence.wire.netdoc import format_date

DAY = 86400
KEPT = 5  # days, as C Tor tells
UNIT = 1024  # bytes that are rounded down to, as C Tor does


class History:
    def __init__(self) -> None:
        self._day = -1  # since 1970; -1 before the first look
        self._days: list[tuple[int, int]] = []  # bytes read and written on the days before that, the oldest first
        self._begun = (0, 0)  # bytes at the begin of this day

    def look(self, read: int, written: int, now: float) -> None:
        """So much was carried since the start. To be called more often than days end."""
        day = int(now) // DAY
        if day == self._day:
            return
        if self._day >= 0 and day > self._day:
            missed = [(0, 0)] * min(day - self._day - 1, KEPT)
            self._days += [(read - self._begun[0], written - self._begun[1]), *missed]
            del self._days[:-KEPT]
        elif day < self._day:  # the clock was wrong
            self._days.clear()
        self._day, self._begun = day, (read, written)

    @property
    def lines(self) -> tuple[tuple[str, str], ...]:
        """Keyword and arguments of the lines of an extra-info document."""
        if not self._days:
            return ()
        until = f"{format_date(self._day * DAY)} ({DAY} s)"
        read, written = (",".join(str(count - count % UNIT) for count in way) for way in zip(*self._days, strict=True))
        return ("write-history", f"{until} {written}"), ("read-history", f"{until} {read}")
