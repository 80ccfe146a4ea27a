"""How far a change reaches: what it touches, and the figures that are counted of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Touched:
    """Things of one kind; `tenant_ids`, `ids` and `routes` are columns of equal length where they are used.

    `what`: devices, users, keys, routes, tenants, tag (of tenants), clusters, waiting or done (steps of a
    plan). `names`: of clusters, or of the tag.
    """

    what: str
    tenant_ids: tuple[int, ...] = ()
    ids: tuple[int, ...] = ()
    routes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Radius:
    """What was counted at one moment. `things`: of those asked about that are still there.

    `online`: of the devices. `others`: further devices of the same tenants, which may see the change.
    """

    things: int
    devices: int
    online: int
    others: int = 0
    #: Routes they carry, and those of them that nobody else who is online carries.
    carried: int = 0
    lost: tuple[str, ...] = ()
    #: Auth keys: of users, unused one-off ones, and those that let any number in.
    keys: int = 0
    unused: int = 0
    reusable: int = 0
    #: Of a cluster: tenants that may leave it with their devices, tenants that stay because they are pinned
    #: there, and clusters that take tenants now.
    leaving: int = 0
    leaving_devices: int = 0
    leaving_online: int = 0
    pinned: int = 0
    targets: tuple[str, ...] = ()
