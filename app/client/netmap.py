"""What a Go client makes of a poll's MapResponses, with every trap, and notes on what is wrong.

Follows tailscale control/controlclient/map.go (mapSession: patchifyPeersChanged, then
updateStateFromResponse). Messages are decoded JSON. Pure.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Any, Final

from app.errors import BadRequest, RemoteProtocolError
from app.keys import parse_disco_key, parse_machine_key, parse_node_key
from app.wire.tailcfg import parse_time, rfc3339

#: Notes kept; a broken server would produce one per message for ever.
MAX_VIOLATIONS: Final = 100

Row = dict[str, Any]

_ZERO_TIME = "0001-01-01T00:00:00Z"
_ZERO_HEX = "0" * 64
_TIMES = ("Created", "KeyExpiry", "LastSeen")
_KEYS = {"Key": parse_node_key, "Machine": parse_machine_key, "DiscoKey": parse_disco_key}
#: Members that make the client keep a changed row whole (map.go peerChangeDiff).
WHOLE_ONLY: Final = (
    *("StableID", "Name", "User", "Sharer", "Machine", "Addresses", "AllowedIPs", "PrimaryRoutes", "Tags"),
    *("Hostinfo", "Created", "MachineAuthorized", "Expired", "UnsignedPeerAPIOnly", "IsWireGuardOnly"),
    *("IsJailed", "SelfNodeV4MasqAddrForThisPeer", "SelfNodeV6MasqAddrForThisPeer", "ExitNodeDNSResolvers"),
)
_DELTA_MEMBERS = ("PeersRemoved", "PeersChanged", "PeersChangedPatch", "PeerSeenChange", "OnlineChange")
_PATCH_TO_ROW = {
    **{
        "DERPRegion": "HomeDERP",
        "Cap": "Cap",
        "Endpoints": "Endpoints",
        "Key": "Key",
        "DiscoKey": "DiscoKey",
    },
    **{"Online": "Online", "LastSeen": "LastSeen", "KeyExpiry": "KeyExpiry", "KeySignature": "KeySignature"},
    "CapMap": "CapMap",
}


@lru_cache(maxsize=65536)
def _is_prefix(text: str) -> bool:
    try:
        ipaddress.ip_interface(text)
    except ValueError:
        return False
    return "/" in text


@lru_cache(maxsize=65536)
def _is_endpoint(text: str) -> bool:
    host, _, port = text.rpartition(":")
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return port.isdigit() and int(port) <= 65535 and host.startswith("[") == (address.version == 6)


@lru_cache(maxsize=65536)
def _is_key(name: str, text: str) -> bool:
    try:
        _KEYS[name](text)
    except BadRequest:
        return False
    return True


@lru_cache(maxsize=65536)
def _is_time(text: str) -> bool:
    try:
        parse_time(text, "time")
    except BadRequest:
        return False
    return True


def _value(row: Row, name: str) -> Any:
    """A member with Go's zero values folded to None, so that absent, null and zero compare equal."""
    value = row.get(name)
    if name == "AllowedIPs" and value is None:
        value = row.get("Addresses")
    if name == "Hostinfo":
        return value
    if isinstance(value, str) and (value == _ZERO_TIME or value.endswith(":" + _ZERO_HEX)):
        return None
    return value if value or (name == "Online" and value is not None) else None


class ClientNetmap:
    """State of one poll: what the client knows, after each message.

    `violations` collects what no server should send though a client survives it. What a client
    does not survive raises RemoteProtocolError (and is noted too). With `strict=False` rows are
    not looked at closely, for load generators.
    """

    __slots__ = (
        "collect_services",
        "control_time",
        "debug",
        "derp_map",
        "display_messages",
        "dns_config",
        "domain",
        "filters",
        "health",
        "keepalives",
        "messages",
        "peers",
        "self_node",
        "ssh_policy",
        "strict",
        "tka_info",
        "user_profiles",
        "violations",
    )

    def __init__(self, *, strict: bool = True) -> None:
        self.strict = strict
        self.violations: list[str] = []
        self.messages = 0
        self.keepalives = 0
        self.self_node: Row | None = None
        self.peers: dict[int, Row] = {}
        self.user_profiles: dict[int, Row] = {}
        self.derp_map: Row | None = None
        self.dns_config: Row | None = None
        self.domain = ""
        self.filters: dict[str, list[Any]] = {}
        self.ssh_policy: Row | None = None
        self.collect_services: bool | None = None
        self.health: list[str] = []
        self.display_messages: dict[str, Row] = {}
        self.tka_info: Row | None = None
        self.debug: Row | None = None
        self.control_time: str | None = None

    # ------------------------------------------------------------------------------ applying

    def apply(self, message: Row, *, now: float = 0.0) -> None:
        """Take one MapResponse. `now` (seconds since 1970) is what "seen now" becomes.

        Raises RemoteProtocolError when a client would end the poll: the first message lacks
        Node, or something cannot be decoded.
        """
        if message.get("ControlTime"):
            self.control_time = message["ControlTime"]
        if message.get("KeepAlive"):
            self.keepalives += 1
            return
        if self.strict:
            self._check_rows(message)
        if self.self_node is None and message.get("Node") is None:
            raise self._fatal("the first message lacks Node")
        self.messages += 1
        if message.get("Peers"):
            self._replace_peers(message)
        else:
            self._change_peers(message, now)
        self._apply_rest(message)
        if self.strict:
            self._check_owners(message)

    def _replace_peers(self, message: Row) -> None:
        for name in _DELTA_MEMBERS:
            if message.get(name):
                self._note(f"{name} beside Peers is ignored")
        rows = message["Peers"]
        self.peers = {row["ID"]: row for row in rows}
        if len(self.peers) != len(rows):
            self._note("an id stands in Peers twice")

    def _change_peers(self, message: Row, now: float) -> None:
        if message.get("Peers") == [] and self.peers:
            self._note("an empty Peers is ignored, it does not remove anybody")
        removed: list[int] = message.get("PeersRemoved") or []
        rows: list[Row] = message.get("PeersChanged") or []
        for twice in sorted(set(removed) & {row["ID"] for row in rows}):
            self._note(f"device {twice} is in PeersRemoved and PeersChanged of one message")
        patches = list(message.get("PeersChangedPatch") or [])
        whole: list[Row] = []
        for row in rows:  # rows shrink to patches before anything is applied: the removal trap
            was = self.peers.get(row["ID"])
            shrunk = None if was is None else shrink(was, row)
            if was is None or shrunk is None:
                whole.append(row)
            elif shrunk:
                self._note_losses(was, row)
                patches.append({"NodeID": row["ID"], **shrunk})
        for device_id in removed:
            self.peers.pop(device_id, None)
        for row in whole:
            self.peers[row["ID"]] = row
        for device_id, seen in self._known(message, "PeerSeenChange"):
            self._set(device_id, LastSeen=rfc3339(now) if seen else None)
        for device_id, online in self._known(message, "OnlineChange"):
            self._set(device_id, Online=online)
        for change in patches:
            self._patch(change)

    def _known(self, message: Row, name: str) -> list[tuple[int, bool]]:
        known = []
        for text, value in (message.get(name) or {}).items():
            if int(text) in self.peers:
                known.append((int(text), value))
            else:
                self._note(f"{name} for device {text}, which is no peer")
        return known

    def _set(self, device_id: int, **members: Any) -> None:
        # A new dict: rows may be shared with whoever holds an older picture.
        self.peers[device_id] = {**self.peers[device_id], **members}

    def _patch(self, change: Row) -> None:
        device_id = change["NodeID"]
        if device_id not in self.peers:
            self._note(f"patch for device {device_id}, which is no peer")
            return
        if change.get("DiscoKey") and change.get("Online") is False:
            self._note(f"patch for device {device_id} has a DiscoKey and Online false: newer clients drop it")
        members = {
            target: change[name]
            for name, target in _PATCH_TO_ROW.items()
            if change.get(name) is not None and not (name in ("DERPRegion", "Cap") and change[name] == 0)
        }
        self._set(device_id, **members)

    def _apply_rest(self, message: Row) -> None:
        if message.get("Node") is not None:
            self.self_node = message["Node"]
        for profile in message.get("UserProfiles") or []:
            self.user_profiles[profile["ID"]] = profile
        if message.get("DERPMap") is not None:
            self._apply_derp_map(message["DERPMap"])
        self._apply_filters(message)
        for member, name in (("DNSConfig", "dns_config"), ("SSHPolicy", "ssh_policy")):
            if message.get(member) is not None:
                setattr(self, name, message[member])
        if message.get("CollectServices") is not None:
            self.collect_services = message["CollectServices"]
        self.domain = message.get("Domain") or self.domain
        if message.get("Health") is not None:
            self.health = message["Health"]
        _merge_named(self.display_messages, message.get("DisplayMessages"))
        self.tka_info = message.get("TKAInfo") or self.tka_info
        self.debug = message.get("Debug") or self.debug

    def _apply_derp_map(self, new: Row) -> None:
        merged, old = dict(new), self.derp_map or {}
        regions = merged.get("Regions")
        if regions is not None:
            merged["Regions"] = {name: region for name, region in regions.items() if region is not None}
        elif old:
            merged["Regions"] = old.get("Regions")
            merged["omitDefaultRegions"] = old.get("omitDefaultRegions")
        params, old_params = merged.get("HomeParams"), old.get("HomeParams")
        if params is None:
            merged["HomeParams"] = old_params
        elif params.get("RegionScore") is None and old_params:
            merged["HomeParams"] = {**params, "RegionScore": old_params.get("RegionScore")}
        self.derp_map = merged

    def _apply_filters(self, message: Row) -> None:
        if message.get("PacketFilter") is not None:
            self.filters["base"] = message["PacketFilter"]
        _merge_named(self.filters, message.get("PacketFilters"))

    # --------------------------------------------------------------------------------- notes

    def _note(self, text: str) -> None:
        if len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(text)

    def _fatal(self, text: str) -> RemoteProtocolError:
        self._note(text)
        return RemoteProtocolError(text)

    def _note_losses(self, was: Row, row: Row) -> None:
        for name in ("HomeDERP", "Cap"):
            if _value(was, name) and not _value(row, name):
                self._note(f"row of device {row['ID']} cannot clear {name}: it becomes a patch")
        if _value(was, "Endpoints") and row.get("Endpoints") is None:
            self._note(f"row of device {row['ID']} cannot clear Endpoints unless it says []")

    def _check_rows(self, message: Row) -> None:
        own = message.get("Node") or self.self_node or {}
        if message.get("Node") is not None:
            self._check_row(message["Node"], "Node")
        for place in ("Peers", "PeersChanged"):
            for row in message.get(place) or []:
                self._check_row(row, place)
                if row["ID"] == own.get("ID"):
                    self._note(f"the own device is in {place}")
        for change in message.get("PeersChangedPatch") or []:
            self._check_members(change, f"patch of {change.get('NodeID')}")
            if not isinstance(change.get("NodeID"), int):
                raise self._fatal("a patch has no NodeID")

    def _check_row(self, row: Row, place: str) -> None:
        device_id = row.get("ID")
        if not isinstance(device_id, int) or isinstance(device_id, bool) or device_id <= 0:
            raise self._fatal(f"{place}: a row has no ID")
        self._check_members(row, f"{place} row {device_id}")
        for name in ("Addresses", "AllowedIPs", "PrimaryRoutes"):
            for text in row.get(name) or []:
                if not isinstance(text, str) or not _is_prefix(text):
                    raise self._fatal(f"{place} row {device_id}: {name} has {text!r}")
        if not str(row.get("Name", "")).endswith("."):
            self._note(f"{place} row {device_id}: Name has no trailing dot")

    def _check_members(self, row: Row, what: str) -> None:
        for name in _KEYS:
            text = row.get(name)
            if text is not None and not (isinstance(text, str) and _is_key(name, text)):
                raise self._fatal(f"{what}: malformed {name}")
        for name in _TIMES:
            text = row.get(name)
            if text is not None and not (isinstance(text, str) and _is_time(text)):
                raise self._fatal(f"{what}: malformed {name}")
        for text in row.get("Endpoints") or []:
            if not isinstance(text, str) or not _is_endpoint(text):
                raise self._fatal(f"{what}: malformed endpoint {text!r}")
        if row.get("Online") is not None and not isinstance(row["Online"], bool):
            raise self._fatal(f"{what}: malformed Online")

    def _check_owners(self, message: Row) -> None:
        rows = [*(message.get("Peers") or []), *(message.get("PeersChanged") or [])]
        if message.get("Node") is not None:
            rows.append(message["Node"])
        for row in rows:
            for name in ("User", "Sharer"):
                if row.get(name) and row[name] not in self.user_profiles:
                    self._note(f"device {row['ID']}: no profile of {name} {row[name]}")

    def check_invariants(self) -> list[str]:
        """What is wrong with the map as a whole; costs time in the size of the map."""
        wrong: list[str] = []
        if self.self_node is not None and self.self_node["ID"] in self.peers:
            wrong.append("the own device is among the peers")
        keys: dict[str, int] = {}
        prefixes: dict[str, int] = {}
        for device_id, row in self.peers.items():
            other = keys.setdefault(row.get("Key", ""), device_id)
            if other != device_id:
                wrong.append(f"devices {other} and {device_id} have one node key")
            for prefix in row.get("AllowedIPs") or row.get("Addresses") or []:
                other = prefixes.setdefault(prefix, device_id)
                if other != device_id and not prefix.endswith("/0"):
                    wrong.append(f"devices {other} and {device_id} both own {prefix}")
        return wrong

    # --------------------------------------------------------------------------------- views

    def view(self, *, last_seen: bool = False) -> Row:
        """What matters of the state, in a form where equal maps are equal.

        LastSeen is left out unless asked for, and then shown for offline devices only: a client
        that shrinks a row to a patch loses a first LastSeen, so deltas cannot always tell it.
        """
        return {
            "Node": None if self.self_node is None else _folded(self.self_node, last_seen=last_seen),
            "Peers": {
                device_id: _folded(row, last_seen=last_seen) for device_id, row in sorted(self.peers.items())
            },
            "DERPMap": self.derp_map,
            "DNSConfig": self.dns_config,
            "Domain": self.domain,
            "PacketFilters": dict(sorted(self.filters.items())),
            "SSHPolicy": self.ssh_policy,
        }

    def peer_named(self, label: str) -> Row | None:
        """The peer whose name starts with this label."""
        return next(
            (row for row in self.peers.values() if str(row.get("Name", "")).split(".")[0] == label), None
        )


def shrink(was: Row, row: Row) -> Row | None:
    """A PeerChange that the client makes of a changed row itself; None when it keeps it whole.

    An empty patch means the row says nothing new (map.go peerChangeDiff).
    """
    if any(_value(was, name) != _value(row, name) for name in WHOLE_ONLY):
        return None
    change: Row = {}
    for name, zero in (("Key", "nodekey:" + _ZERO_HEX), ("DiscoKey", "discokey:" + _ZERO_HEX)):
        if _value(was, name) != _value(row, name):
            change[name] = row.get(name) or zero
    if _value(was, "KeyExpiry") != _value(row, "KeyExpiry"):
        change["KeyExpiry"] = row.get("KeyExpiry") or _ZERO_TIME
    for name in ("KeySignature", "Endpoints", "Cap"):
        if _value(was, name) != _value(row, name):
            change[name] = row.get(name)
    if _value(was, "HomeDERP") != _value(row, "HomeDERP"):
        change["DERPRegion"] = row.get("HomeDERP")
    if _value(was, "CapMap") != _value(row, "CapMap"):
        change["CapMap"] = row.get("CapMap") or {}
    for name in ("Online", "LastSeen"):
        if None not in (was.get(name), row.get(name)) and was[name] != row[name]:
            change[name] = row[name]
    return change


def _merge_named(target: dict[str, Any], named: dict[str, Any] | None) -> None:
    """Named parts: null deletes one, `"*": null` first deletes all."""
    if named is None:
        return
    if "*" in named and named["*"] is None:
        target.clear()
    for name, value in named.items():
        if name == "*":
            continue
        if value is None:
            target.pop(name, None)
        else:
            target[name] = value


def _folded(row: Row, *, last_seen: bool) -> Row:
    folded = {name: value for name in row if (value := _value(row, name)) is not None}
    if _value(row, "AllowedIPs") is not None:
        folded["AllowedIPs"] = _value(row, "AllowedIPs")
    if folded.get("Online") or not last_seen:
        folded.pop("LastSeen", None)
    return folded
