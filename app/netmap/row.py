"""One device as its peers see it: JSON of a tailcfg.Node, and how two pictures of it differ.

Most devices look the same to everybody who may see them. A router does not: which of its routes stand
in its AllowedIPs depends on the viewer's class, and so does a family of addresses that a viewer lacks.
"""

from __future__ import annotations

from typing import NamedTuple

import orjson

from app.model import TAGGED_DEVICES_USER_ID, Device, UserId
from app.policy.addresses import EXIT_ROUTES
from app.policy.classes import DeviceClass
from app.wire import tailcfg

#: What only a whole tailcfg.Node can tell (tailscale control/controlclient/map.go peerChangeDiff).
_WHOLE_ONLY = ("user_id", "machine_key", "ipv4", "ipv6", "tags", "hostinfo", "created", "active_routes")
#: What a device must hear about itself; the rest of its row it has told us.
_SELF = ("user_id", "ipv4", "ipv6", "tags", "expiry", "active_routes")


class Form(NamedTuple):
    """How one row looks to a class of viewers: the subnet routes shown, and whether IPv4 is."""

    routes: tuple[str, ...] = ()
    has_v4: bool = True


PLAIN = Form()


class Row:
    """A committed picture of one device. Its JSON is made when first needed.

    `primaries`: subnet routes that it carries itself. `told`: how it was shown to each class of
    viewers, for rows that do not look the same to all.
    """

    __slots__ = ("_forms", "_json", "cls", "device", "expired", "fqdn", "primaries", "told")

    def __init__(
        self,
        device: Device,
        fqdn: str,
        cls: DeviceClass,
        *,
        expired: bool,
        primaries: tuple[str, ...] = (),
    ) -> None:
        self.device = device
        self.fqdn = fqdn
        self.cls = cls
        self.expired = expired
        self.primaries = primaries
        self.told: dict[DeviceClass, Form] = {}
        self._json: bytes | None = None
        self._forms: dict[Form, bytes] = {}

    @property
    def owner(self) -> UserId:
        """Whose profile a viewer of this row needs."""
        user_id = self.device.user_id
        return TAGGED_DEVICES_USER_ID if user_id is None else user_id

    @property
    def viewer_class(self) -> DeviceClass | None:
        """The class it looks with; None when its key has expired and it may see nobody."""
        return None if self.expired else self.cls

    @property
    def _exits(self) -> tuple[str, ...]:
        return EXIT_ROUTES if self.cls.shape.is_exit else ()

    def json(self, form: Form = PLAIN) -> bytes:
        """The complete tailcfg.Node as peers see it in this form."""
        if form == PLAIN:
            if self._json is None:
                self._json = self._node(form)
            return self._json
        known = self._forms.get(form)
        if known is None:
            known = self._forms[form] = self._node(form)
        return known

    def _node(self, form: Form) -> bytes:
        static = tailcfg.static_fields(
            self.device,
            self.fqdn,
            expired=self.expired,
            has_v4=form.has_v4 and not self.cls.shape.no_v4,
            primary_routes=form.routes,
            other_routes=self._exits,
            cap_map=self.cls.peer_caps,
        )
        return orjson.dumps(static | tailcfg.live_fields(self.device))

    def self_json(self) -> bytes:
        """The tailcfg.Node that the device is told of itself: all its routes, and its capabilities."""
        others = tuple(r for r in self.cls.shape.subnets if r not in self.primaries)
        static = tailcfg.static_fields(
            self.device,
            self.fqdn,
            expired=self.expired,
            has_v4=not self.cls.shape.no_v4,
            primary_routes=self.primaries,
            other_routes=(*others, *self._exits),
            cap_map=self.cls.self_caps,
        )
        return orjson.dumps(static | tailcfg.live_fields(self.device))

    def patch_from(self, old: Row) -> bytes | None:
        """What peers must hear to get from `old` to this picture, both in the plain form.

        None: nothing. The row's own JSON: nothing less than the whole node will do (compare with
        `is`). Else a tailcfg.PeerChange.
        """
        if self.expired != old.expired or self.fqdn != old.fqdn:
            return self.json()
        if any(getattr(self.device, name) != getattr(old.device, name) for name in _WHOLE_ONLY):
            return self.json()
        if self.cls is not old.cls and (self.cls.shape.no_v4, self.cls.peer_caps) != (
            old.cls.shape.no_v4,
            old.cls.peer_caps,
        ):
            return self.json()
        change = tailcfg.patch(self.device.id, old.device, self.device)
        if change is None:
            return None
        if isinstance(change, tailcfg.Whole):
            return self.json()
        return orjson.dumps(change)

    def differs_for_itself(self, old: Row) -> bool:
        """Whether the device itself must be sent a new self node."""
        if self.expired != old.expired or self.fqdn != old.fqdn or self.primaries != old.primaries:
            return True
        if self.cls is not old.cls and (self.cls.shape.no_v4, self.cls.self_caps) != (
            old.cls.shape.no_v4,
            old.cls.self_caps,
        ):
            return True
        return any(getattr(self.device, name) != getattr(old.device, name) for name in _SELF)
