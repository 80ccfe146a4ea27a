"""Endpoints that carry a number, so that one process knows when a change it made arrives. Pure.

The addresses are of 198.18.0.0/15, which is set aside for benchmarks (RFC 2544).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

_FIRST_PORT: Final = 1024
_PORTS: Final = 60_000
_HOSTS: Final = 1 << 17
#: Numbers are taken modulo this.
MARKERS: Final = _HOSTS * _PORTS
#: Changes under way at most; the oldest is given up.
MAX_OPEN: Final = 4096
#: What a client behind a router with IPv6 reports beside.
USUAL: Final = (
    *(f"192.168.{number}.17:41641" for number in range(4)),
    *("[2001:db8:1:2::17]:41641", "[2001:db8:1:3::17]:41641", "203.0.113.9:41641"),
)


def marker(number: int) -> str:
    """The endpoint for a number."""
    host, port = divmod(number % MARKERS, _PORTS)
    return f"198.{18 + (host >> 16)}.{host >> 8 & 255}.{host & 255}:{_FIRST_PORT + port}"


def endpoints(number: int, usual: Sequence[str] = USUAL) -> list[str]:
    """What a device reports: the usual, and the marker of this number."""
    return [*usual, marker(number)]


def number_of(endpoint: str) -> int | None:
    """The number in an endpoint; None when it is no marker."""
    if not endpoint.startswith(("198.18.", "198.19.")):
        return None
    host, _, port = endpoint.rpartition(":")
    try:
        parts = [int(part) for part in host.split(".")]
        number = int(port) - _FIRST_PORT
    except ValueError:
        return None
    if len(parts) != 4 or not 0 <= number < _PORTS or not all(0 <= part < 256 for part in parts):
        return None
    return ((parts[1] - 18) << 16 | parts[2] << 8 | parts[3]) * _PORTS + number


@dataclass(slots=True)
class _Open:
    sent_s: float
    #: Of the same sender: the change before this one.
    before: int | None
    #: How many have neither heard of it nor of a later one.
    missing: int
    receivers: bytearray  # one bit a device

    def mark(self, device: int) -> bool:
        """False when this device was marked before."""
        at, bit = device >> 3, 1 << (device & 7)
        if at >= len(self.receivers):  # devices that joined later
            self.receivers.extend(bytes(at + 1 - len(self.receivers)))
        if self.receivers[at] & bit:
            return False
        self.receivers[at] |= bit
        self.missing -= 1
        return True


@dataclass(slots=True)
class Ledger:
    """Which changes are on their way, and who has heard of them. Times are of one clock, in seconds.

    A server may tell two changes of one device in one message, that of the later: for whoever heard of the
    later, the earlier is superseded.
    """

    devices: int
    sent: int = 0
    expected: int = 0
    receipts: int = 0
    superseded: int = 0
    _open: OrderedDict[int, _Open] = field(default_factory=OrderedDict)

    def send(self, number: int, viewers: int, now_s: float, before: int | None = None) -> None:
        """A device is about to report this marker, after that one; so many others should hear of it."""
        self.sent += 1
        self.expected += viewers
        receivers = bytearray((self.devices >> 3) + 1)
        self._open[number % MARKERS] = _Open(now_s, before, viewers, receivers)
        if len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)

    def withdraw(self, number: int, viewers: int) -> None:
        """The report did not get through."""
        if self._open.pop(number % MARKERS, None) is not None:
            self.sent -= 1
            self.expected -= viewers

    def receive(self, number: int, device: int, now_s: float) -> float | None:
        """Seconds since it was sent, when this device (by its index) hears of it for the first time."""
        change = self._open.get(number)
        if change is None or not change.mark(device):
            return None
        self.receipts += 1
        earlier = self._before(change)
        while earlier is not None and earlier.missing > 0 and earlier.mark(device):
            self.superseded += 1
            earlier = self._before(earlier)
        return now_s - change.sent_s

    def _before(self, change: _Open) -> _Open | None:
        return None if change.before is None else self._open.get(change.before)
