"""Adapter between the policy corpus and the product: `check.py tests.policy.corpus:run DIR`.

It builds users and devices as records, gives the policy text to what `hs-node policy set` calls, and
asks the engine what the netmap asks of it. What a client makes of the filter is worked out here.
"""

from __future__ import annotations

import ipaddress
import json
from typing import Any

from app.keys import DiscoKey, MachineKey, NodeKey
from app.model import Device, DeviceId, TenantId, User, UserId
from app.netmap.row import Form, Row
from app.policy.check import accept
from app.policy.engine import PolicyEngine
from app.policy.hujson import PolicyError
from app.policy.routes import auto_approved

TENANT = TenantId(1)


def run(case_input: dict[str, Any], topology: dict[str, Any]) -> dict[str, Any]:
    users = [_user(user) for user in topology["users"]]
    devices = _devices(topology)
    settings = case_input["tailnet"]["settings"]
    try:
        policy = accept(case_input["policy"], users, devices.values())
    except PolicyError as error:
        return {"api": {"code": 400, "message": str(error)}, "nodes": None}
    engine = PolicyEngine(policy, users, auto_update=bool(settings.get("devices_auto_updates_on")))
    for device in devices.values():
        engine.put(device)
    nodes = {name: _node(engine, devices, name) for name in devices}
    for name, node in nodes.items():
        node["peer_grants"] = _grants(devices, name, node)
    return {"api": {"code": 200, "message": None}, "nodes": nodes}


def _user(facts: dict[str, Any]) -> User:
    roles = facts["roles"] or []
    role = "owner" if "owner" in roles else "admin" if "admin" in roles else "member"
    return User(UserId(facts["id"]), TENANT, facts["name"], email=facts["email"], role=role)


def _devices(topology: dict[str, Any]) -> dict[str, Device]:
    by_name = {user["name"]: UserId(user["id"]) for user in topology["users"]}
    ordered = sorted(
        topology["nodes"].items(),
        key=lambda item: (item[1]["order"] is None, item[1]["order"] or 0, item[0]),
    )
    return {
        name: Device(
            DeviceId(place),
            TENANT,
            None if facts["tags"] else by_name[facts["user"]],
            MachineKey(place.to_bytes(32, "big")),
            NodeKey(place.to_bytes(32, "big")),
            DiscoKey(place.to_bytes(32, "big")),
            facts["ipv4"],
            facts["ipv6"],
            name,
            name,
            tags=tuple(facts["tags"]),
            announced_routes=tuple(sorted(facts["routable_ips"])),
            approved_routes=tuple(sorted(facts["approved_routes"])),
            online=True,
        )
        for place, (name, facts) in enumerate(ordered, 1)
    }


def _node(engine: PolicyEngine, devices: dict[str, Device], name: str) -> dict[str, Any]:
    device = devices[name]
    cls = engine.class_of(device.id)
    rules = json.loads(engine.template(cls).filled(device.ipv4, device.ipv6))
    visible = {member for seen in engine.visible(cls) for member in seen.members} - {device.id}
    peers = {}
    for peer_name, peer in devices.items():
        if peer.id not in visible:
            continue
        row = Row(peer, peer_name, engine.class_of(peer.id), expired=False)
        told = json.loads(row.json(Form(engine.shown_routes(cls, peer.id), not cls.shape.no_v4)))
        peers[peer_name] = {
            "allowed_ips": told["AllowedIPs"],
            "primary_routes": told.get("PrimaryRoutes", []),
            "cap_map": told.get("CapMap", {}),
            "addresses": told["Addresses"],
        }
    return {
        "filter": rules,
        "matches": [_match(rule) for rule in rules],
        "peers": peers,
        "approved": sorted(
            {
                *device.approved_routes,
                *auto_approved(
                    engine.policy, engine.directory, device.user_id, device.tags, device.announced_routes
                ),
            }
            & set(device.announced_routes)
        ),
        "ssh": json.loads(engine.ssh_rules(cls)),
        "self": {"cap_map": json.loads(cls.self_caps)},
    }


# -- what a Go client makes of it (tailscale wgengine/filter/tailcfg.go, MatchesFromFilterRules) -----


def _nets(text: str) -> list[str]:
    if text == "*":
        return ["0.0.0.0/0", "::/0"]
    if "-" in text:
        first, last = map(ipaddress.ip_address, text.split("-"))
        return [str(net) for net in ipaddress.summarize_address_range(first, last)]
    return [str(ipaddress.ip_network(text))]


def _match(rule: dict[str, Any]) -> dict[str, Any]:
    return {
        "IPProto": rule.get("IPProto") or [6, 17, 1, 58],
        "Srcs": [net for text in rule["SrcIPs"] for net in _nets(text)],
        "SrcCaps": None,
        "Dsts": [
            {"Net": net, "Ports": entry["Ports"]}
            for entry in rule.get("DstPorts") or []
            for net in _nets(entry["IP"])
        ],
        "Caps": [
            {"Dst": dst, "Cap": cap, "Values": values}
            for grant in rule.get("CapGrant") or []
            for dst in grant["Dsts"]
            for cap, values in grant["CapMap"].items()
        ],
    }


def _grants(devices: dict[str, Device], name: str, node: dict[str, Any]) -> dict[str, Any]:
    """Per peer the CapMap of a local whois (tailscale ipn/ipnlocal/node_backend.go peerCapsLocked)."""
    own = devices[name]
    out = {}
    for peer_name in node["peers"]:
        peer, caps = devices[peer_name], {}
        for rule in node["filter"]:
            for grant in rule.get("CapGrant") or []:
                for source, target in ((peer.ipv4, own.ipv4), (peer.ipv6, own.ipv6)):
                    if _holds(rule["SrcIPs"], source) and _holds(grant["Dsts"], target):
                        for cap, values in grant["CapMap"].items():
                            known = caps.setdefault(cap, [])
                            known += [v for v in values or [] if v not in known]
        out[peer_name] = caps
    return out


def _holds(texts: list[str], address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return any(ip in ipaddress.ip_network(net) for text in texts for net in _nets(text))
