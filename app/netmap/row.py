"""One device as its peers see it: JSON of a tailcfg.Node, and how two pictures of it differ."""

from __future__ import annotations

import orjson

from app.model import TAGGED_DEVICES_USER_ID, Device, UserId
from app.policy.visibility import ClassKey
from app.wire import tailcfg

#: What only a whole tailcfg.Node can tell (tailscale control/controlclient/map.go peerChangeDiff).
_WHOLE_ONLY = ("user_id", "machine_key", "ipv4", "ipv6", "tags", "hostinfo", "created")
#: What a device must hear about itself; the rest of its row it has told us.
_SELF = ("user_id", "ipv4", "ipv6", "tags", "expiry")


class Row:
    """A committed picture of one device. Its JSON is made when first needed."""

    __slots__ = ("_json", "cls", "device", "expired", "fqdn")

    def __init__(self, device: Device, fqdn: str, cls: ClassKey, *, expired: bool) -> None:
        self.device = device
        self.fqdn = fqdn
        self.cls = cls
        self.expired = expired
        self._json: bytes | None = None

    @property
    def owner(self) -> UserId:
        """Whose profile a viewer of this row needs."""
        user_id = self.device.user_id
        return TAGGED_DEVICES_USER_ID if user_id is None else user_id

    @property
    def viewer_class(self) -> ClassKey | None:
        """The class it looks with; None when its key has expired and it may see nobody."""
        return None if self.expired else self.cls

    def json(self) -> bytes:
        """The complete tailcfg.Node, as sent to peers and to the device itself."""
        if self._json is None:
            static = tailcfg.static_fields(self.device, self.fqdn, expired=self.expired)
            self._json = orjson.dumps(static | tailcfg.live_fields(self.device))
        return self._json

    def patch_from(self, old: Row) -> bytes | None:
        """What peers must hear to get from `old` to this picture.

        None: nothing. The row's own JSON: nothing less than the whole node will do (compare with
        `is`). Else a tailcfg.PeerChange.
        """
        if self.expired != old.expired or self.fqdn != old.fqdn:
            return self.json()
        if any(getattr(self.device, name) != getattr(old.device, name) for name in _WHOLE_ONLY):
            return self.json()
        change = tailcfg.patch(self.device.id, old.device, self.device)
        if change is None:
            return None
        if isinstance(change, tailcfg.Whole):
            return self.json()
        return orjson.dumps(change)

    def differs_for_itself(self, old: Row) -> bool:
        """Whether the device itself must be sent a new self node."""
        if self.expired != old.expired or self.fqdn != old.fqdn:
            return True
        return any(getattr(self.device, name) != getattr(old.device, name) for name in _SELF)
