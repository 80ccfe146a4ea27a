"""Who can reach what: asked in a form, answered from the policy, users and devices as they are stored."""

from __future__ import annotations

import asyncio
from typing import Any

from rich.text import Text

from app.errors import HsError
from app.model import TenantId
from app.policy.explain import TCP, explain, who_can_reach
from app.policy.snapshot import Snapshot
from app.policy.words import explanation_lines, protocol_of, reach_lines, split_target
from console.forms import Field, FormDialog
from console.screens.frame import ListFrame


def ask_reach(screen: ListFrame[Any], cluster_id: str, tenant_id: int, tenant: str, source: str = "") -> None:
    """Opens the form; what was typed comes back with a complaint where it stands for nothing."""
    console = screen.console

    def form(answers: dict[str, str]) -> None:
        fields = [
            Field(
                "source", "Source", answers.get("source", source), hint="device, user, tag; empty: everybody"
            ),
            Field("target", "Destination", answers.get("target", ""), check=target_complaint, hint="web:22"),
            Field("proto", "Protocol", answers.get("proto", ""), check=protocol_complaint, hint="tcp"),
        ]
        told = "Nothing is changed and nobody is asked: the stored policy is applied here."
        screen.app.push_screen(
            FormDialog(screen.pen, f"Who can reach what in {tenant}", fields, "Tell", told), answered
        )

    async def answered(answers: dict[str, str] | None) -> None:
        if answers is None:
            return
        try:
            snapshot = await screen.store.snapshot(cluster_id, TenantId(tenant_id))
            lines = await asyncio.to_thread(answer_lines, snapshot, answers)
        except (HsError, ValueError) as error:
            console.say(str(error), "error")
            form(answers)
            return
        title = f"{answers['source'] or 'everybody'} to {answers['target']}"
        text = Text("\n", end="").join(screen.pen.cell(line) for line in [*lines, "", basis(snapshot)])
        console.open_page(title, text)

    form({})


def answer_lines(snapshot: Snapshot, answers: dict[str, str]) -> list[str]:
    """By which rule, or why not. Raises ValueError for a name that stands for nothing."""
    name, port = split_target(answers["target"])
    proto = protocol_of(answers["proto"])
    place = snapshot.policy, snapshot.users, snapshot.devices
    if answers["source"]:
        return explanation_lines(explain(*place, answers["source"], name, port, proto or TCP))
    return reach_lines(who_can_reach(*place, name, port, proto))


def basis(snapshot: Snapshot) -> str:
    if snapshot.version:
        return f"by version {snapshot.version} of the policy, the newest stored"
    return "no policy is stored: everybody reaches everybody, unless hs-node reads one from a file"


def target_complaint(text: str) -> str:
    try:
        split_target(text)
    except ValueError as error:
        return str(error)
    return "" if text else "a device, user, tag or address, with :port"


def protocol_complaint(text: str) -> str:
    try:
        protocol_of(text)
    except ValueError as error:
        return str(error)
    return ""
