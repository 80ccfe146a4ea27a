"""How many connections may stand unfinished: floods cost the flooder, not the fleet."""

from __future__ import annotations

from collections import Counter

#: From TCP accept to the end of the Noise handshake, seconds (the Go client gives up after 10).
HANDSHAKE_DEADLINE_S = 10.0
#: Connections without a finished handshake, in all and from one address. NAT and load balancers put
#: many devices behind one address, hence the height.
MAX_HALF_OPEN = 4096
MAX_HALF_OPEN_PER_ADDRESS = 1024
#: Connections of one address in any state.
MAX_CONNECTIONS_PER_ADDRESS = 50_000


class ConnectionLimits:
    """Counts connections by address; single-threaded, like the loop it serves."""

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
        self._half_open: Counter[str] = Counter()
        self._open: Counter[str] = Counter()
        self._half_open_total = 0
        self.refused = 0

    @property
    def half_open(self) -> int:
        return self._half_open_total

    def admit(self, address: str) -> bool:
        """A connection arrives, half-open. False: close it at once, nothing was counted."""
        if (
            self._half_open_total >= self._max_half_open
            or self._half_open[address] >= self._max_half_open_per_address
            or self._open[address] >= self._max_per_address
        ):
            self.refused += 1
            return False
        self._half_open_total += 1
        self._half_open[address] += 1
        self._open[address] += 1
        return True

    def established(self, address: str) -> None:
        """The handshake is done, or another server took the connection over."""
        self._half_open_total -= 1
        _lower(self._half_open, address)

    def closed(self, address: str, *, established: bool) -> None:
        if not established:
            self.established(address)
        _lower(self._open, address)


def _lower(counter: Counter[str], address: str) -> None:
    counter[address] -= 1
    if counter[address] <= 0:
        del counter[address]
