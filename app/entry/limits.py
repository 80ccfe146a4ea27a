"""How many connections may stand unfinished: floods cost the flooder, not the fleet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

#: From TCP accept to the client's first record, seconds (the Go client gives up after 10). With TLS its
#: handshake has as long again before that.
HANDSHAKE_DEADLINE_S = 10.0
#: Connections that have not got so far, in all and from one address. NAT and load balancers put many
#: devices behind one address, hence the height.
MAX_HALF_OPEN = 4096
MAX_HALF_OPEN_PER_ADDRESS = 1024
#: Connections of one address in any state.
MAX_CONNECTIONS_PER_ADDRESS = 50_000


class Place:
    """One connection as the limits know it."""

    __slots__ = ("address", "drop")

    def __init__(self, address: str, drop: Callable[[], None]) -> None:
        self.address = address
        self.drop = drop


class ConnectionLimits:
    """Counts connections by address; single-threaded, like the loop it serves.

    Where unfinished ones are too many the oldest gives way: a good client is through in milliseconds,
    while what a flood leaves standing grows old. To refuse newcomers instead would lock the fleet out
    for as long as the flood lasts.
    """

    def __init__(
        self,
        *,
        half_open: int = MAX_HALF_OPEN,
        half_open_per_address: int = MAX_HALF_OPEN_PER_ADDRESS,
        per_address: int = MAX_CONNECTIONS_PER_ADDRESS,
    ) -> None:
        self._max_half_open = half_open
        self._max_half_open_per_address = half_open_per_address
        self._max_per_address = per_address
        #: In order of arrival, in all and by address; dicts because they are ordered sets.
        self._half_open: dict[Place, None] = {}
        self._half_open_of: dict[str, dict[Place, None]] = {}
        self._open: Counter[str] = Counter()
        self.refused = 0
        self.displaced = 0

    @property
    def half_open(self) -> int:
        return len(self._half_open)

    def admit(self, address: str, drop: Callable[[], None]) -> Place | None:
        """A connection arrives, half-open; `drop` ends it. None: close it at once, nothing was counted."""
        if self._open[address] >= self._max_per_address:
            self.refused += 1
            return None
        here = self._half_open_of.setdefault(address, {})
        if len(here) >= self._max_half_open_per_address:
            self._displace(next(iter(here)))
        elif len(self._half_open) >= self._max_half_open:
            self._displace(next(iter(self._half_open)))
        place = Place(address, drop)
        self._half_open[place] = None
        self._half_open_of.setdefault(address, here)[place] = None
        self._open[address] += 1
        return place

    def established(self, place: Place) -> None:
        """The handshake is done, or another server took the connection over. May be said twice."""
        if place not in self._half_open:
            return
        del self._half_open[place]
        here = self._half_open_of[place.address]
        del here[place]
        if not here:
            del self._half_open_of[place.address]

    def closed(self, place: Place) -> None:
        """The connection is gone, whatever it was."""
        self.established(place)
        self._open[place.address] -= 1
        if self._open[place.address] <= 0:
            del self._open[place.address]

    def _displace(self, oldest: Place) -> None:
        self.displaced += 1
        self.established(oldest)
        oldest.drop()
