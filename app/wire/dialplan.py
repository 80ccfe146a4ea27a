"""The addresses a client may dial besides the login URL (tailcfg.ControlDialPlan). Pure.

A candidate is an IP; ports are those of the login URL. Clients race them and take the one of highest priority
that answers (tailscale control/controlhttp dial; CLIENTS 6d: 0.24 s from a kill to the other address).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MAX_CANDIDATES = 4
#: An owner's host that is silent is given up after this.
OWNER_DIAL_S = 2
#: Standbys are tried that much later, each after the one before: dials that are not needed cost the fleet.
STANDBY_DELAY_S = 0.2
#: A standby holds a connection until it is the owner (app.entry.relay.PARK_S).
STANDBY_DIAL_S = 10


def dial_plan(addresses: Sequence[str]) -> dict[str, Any]:
    """The owner's address first, then those of its standbys.

    One address alone is no plan: the empty list has clients forget an older one (PROTOCOL 1.7).
    """
    unique = list(dict.fromkeys(addresses))[:MAX_CANDIDATES]
    if len(unique) < 2:
        return {"Candidates": []}
    candidates: list[dict[str, Any]] = []
    for place, address in enumerate(unique):
        candidate: dict[str, Any] = {"IP": address, "Priority": len(unique) - place}
        if place == 0:
            candidate["DialTimeoutSec"] = OWNER_DIAL_S
        else:
            candidate |= {"DialStartDelaySec": STANDBY_DELAY_S * place, "DialTimeoutSec": STANDBY_DIAL_S}
        candidates.append(candidate)
    return {"Candidates": candidates}
