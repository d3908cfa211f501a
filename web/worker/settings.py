"""What the person at this browser lets the node do for others, and wants of it.

Does: turn the page's settings (checked by web/ui/settings.js) into the core's roles and limits; say why none is done.
Does not: keep them, or notice a metered connection: the page does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from convergence.circuit.relaying import RelayLimits
from convergence.wire.cells import CELL_LEN
from convergence.wire.target import Role


@dataclass(frozen=True, slots=True)
class Settings:
    """The page's settings, and whether its connection is metered now."""

    relay: bool
    rdv: bool
    direct: bool  # serve what is shared to whoever's circuit ends here
    group: bool  # all that is shared uses the same circuits
    metered: bool  # relay also on metered connections
    tor: bool  # what the person fetches goes through the Tor network
    circuits: int
    streams: int
    upload: float  # Mbit/s that the connection has
    share: int  # percent of it for others
    volume: int  # MiB a visit, 0 for no limit
    hops: int
    on_metered: bool

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> Settings:
        """From the page's {settings, onMetered}."""
        return cls(**message["settings"], on_metered=message["onMetered"])

    def view(self) -> dict[str, Any]:
        """The settings as the page gave them."""
        view = asdict(self)
        del view["on_metered"]
        return view

    @property
    def paused(self) -> str:
        """Why nothing is to be relayed: "paused" or "metered"; "" when it is."""
        if not self.relay:
            return "paused"
        return "metered" if self.on_metered and not self.metered else ""

    @property
    def roles(self) -> Role:
        return Role.RELAY | Role.RDV if self.rdv else Role.RELAY

    @property
    def limits(self) -> RelayLimits | None:
        if self.paused:
            return None
        rate = int(self.upload * 1_000_000 / 8 * self.share / 100)
        return RelayLimits(
            circuits=self.circuits,
            streams=self.streams,
            volume=self.volume << 20 or None,
            rate=max(rate, CELL_LEN),
        )
