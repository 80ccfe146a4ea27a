"""What the commands of `hs-node policy` do."""

from __future__ import annotations

import difflib
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from app import log
from app.db.scoped import Scoped
from app.errors import BadRequest, Conflict, NotFound, Refused
from app.model import StoredPolicy, Tenant
from app.output import Row, confirm, show, when
from app.policy.advice import Advice, warnings_of
from app.policy.check import accept
from app.policy.document import Policy
from app.policy.hujson import MAX_POLICY_CHARS, PolicyError
from app.policy.impact import Impact, impact
from app.policy.snapshot import Snapshot
from app.policy.words import LINES, impact_lines
from app.settings import Settings
from node.policy_file import PolicyFile
from node.shell import actor, administration

STDIN = "-"
#: What a terminal may obey; line breaks and tabs belong to the text.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class Scene(Snapshot):
    """A tenant with the policy in force and all that it is applied to."""

    place: Tenant


async def scene_of(scoped: Scoped, settings: Settings, tenant: str | None) -> Scene:
    """What a tenant is now."""
    place = await scoped.tenant(tenant)
    users, devices = await scoped.list_users(place.id), await scoped.list_devices(place.id)
    file = policy_file(settings, place)
    if file is not None:
        return Scene(users, devices, 0, PolicyFile(file).read(), place)
    stored = await scoped.load_policy(place.id)
    if stored is None:
        return Scene(users, devices, 0, None, place)
    return Scene(users, devices, stored.version, stored.text, place)


def policy_file(settings: Settings, place: Tenant) -> Path | None:
    """The file that holds the policy of this tenant, None where the database does."""
    return settings.policy.file if place.is_home else None


# -- looking ------------------------------------------------------------------------------------


async def get_policy(settings: Settings, tenant: str | None, version: int | None, output: str) -> None:
    async with administration(settings) as scoped:
        place = await scoped.tenant(tenant)
        file = policy_file(settings, place)
        if version is not None:
            stored: StoredPolicy | None = await scoped.policy_version(place.id, version)
        elif file is not None:
            found = PolicyFile(file)
            found.take()
            stored = found.stored(place.id)
        else:
            stored = await scoped.load_policy(place.id)
    if stored is None:
        raise NotFound(f"tenant {place.name!r} has no policy: everybody reaches everybody")
    if output == "table":
        click.echo(printable(stored.text), nl=not stored.text.endswith("\n"))
    else:
        show({**version_row(stored), "text": stored.text}, output)


async def show_history(settings: Settings, tenant: str | None, limit: int, output: str) -> None:
    async with administration(settings) as scoped:
        place = await scoped.tenant(tenant)
        found = await scoped.policy_history(place.id, limit)
    show([version_row(stored) for stored in found], output)


async def show_diff(
    settings: Settings, tenant: str | None, first: int, second: int | None, output: str
) -> None:
    async with administration(settings) as scoped:
        place = await scoped.tenant(tenant)
        old = await scoped.policy_version(place.id, first)
        new = await (
            scoped.load_policy(place.id) if second is None else scoped.policy_version(place.id, second)
        )
    assert new is not None
    names = f"version {old.version}", f"version {new.version}"
    lines = difflib.unified_diff(old.text.splitlines(), new.text.splitlines(), *names, lineterm="")
    text = "\n".join(lines)
    if output != "table":
        show({"from": old.version, "to": new.version, "diff": text}, output)
    elif text:
        click.echo(printable(text))
    else:
        click.echo(f"versions {old.version} and {new.version} are the same text")


def version_row(stored: StoredPolicy) -> Row:
    return {
        "version": stored.version,
        "author": stored.author,
        "created": when(stored.created) if stored.version else None,
        "note": stored.note,
        "hash": stored.hash,
    }


def printable(text: str) -> str:
    """A tenant's text: exact in a file or pipe, without control codes on a terminal."""
    if not sys.stdout.isatty():
        return text
    return _CONTROLS.sub(lambda found: log.escape(found[0]), text)


# -- judging and changing -----------------------------------------------------------------------


def read_text(name: str) -> str:
    """The text of a file, or of stdin. Raises BadRequest."""
    try:
        data: bytes
        if name == STDIN:
            data = sys.stdin.buffer.read(4 * MAX_POLICY_CHARS + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(4 * MAX_POLICY_CHARS + 1)
    except OSError as error:
        raise BadRequest(f"cannot read {name}: {error.strerror or error}", code="policy_file") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRequest(f"{name} is not UTF-8", code="policy_file") from error


def judged(text: str, name: str, scene: Scene) -> Policy:
    """The policy of a text. Raises Refused with file, line and column."""
    try:
        return accept(text, scene.users, scene.devices)
    except PolicyError as error:
        shown = "stdin" if name == STDIN else name
        raise Refused(
            f"{shown}:{error.line}:{error.column}: {error.reason}",
            code="policy",
            line=error.line,
            column=error.column,
        ) from error


async def check_policy(settings: Settings, tenant: str | None, name: str, output: str) -> None:
    text = read_text(name)
    async with administration(settings) as scoped:
        scene = await scene_of(scoped, settings, tenant)
    policy = judged(text, name, scene)
    warnings = warnings_of(policy, scene.users, scene.devices)
    found = impact(scene.policy, policy, scene.users, scene.devices)
    if output == "table":
        tell(warnings, found, err=False)
        click.echo("the policy can be used; nothing was changed")
    else:
        show({"ok": True, **findings(warnings, found)}, output)


async def set_policy(
    settings: Settings,
    tenant: str | None,
    name: str,
    *,
    note: str,
    expected: int | None,
    yes: bool,
    output: str,
) -> None:
    text = read_text(name)
    if name == STDIN and not yes:
        raise click.UsageError("the policy comes from stdin, so nobody can be asked there: add --yes")
    async with administration(settings) as scoped:
        scene = await _changeable(scoped, settings, tenant, expected)
        await _put(scoped, scene, text, name, note, yes, output)


async def roll_back(
    settings: Settings,
    tenant: str | None,
    version: int,
    *,
    expected: int | None,
    yes: bool,
    output: str,
) -> None:
    async with administration(settings) as scoped:
        scene = await _changeable(scoped, settings, tenant, expected)
        old = await scoped.policy_version(scene.place.id, version)
        name = f"version {version}"
        await _put(scoped, scene, old.text, name, f"rollback to {name}", yes, output)


async def _changeable(scoped: Scoped, settings: Settings, tenant: str | None, expected: int | None) -> Scene:
    """The scene of a policy that is about to be changed. Raises Refused in file mode, and Conflict."""
    place = await scoped.tenant(tenant)
    file = policy_file(settings, place)
    if file is not None:
        raise Refused(
            f"the policy of tenant {place.name!r} is the file {file} (policy.mode): change it there, "
            "then send SIGHUP to `hs-node serve`",
            code="policy_file_mode",
        )
    scene = await scene_of(scoped, settings, tenant)
    if expected is not None and expected != scene.version:
        now = f"version {scene.version} is in force" if scene.version else "there is none yet"
        raise Conflict(f"{now}, not version {expected}", code="policy_changed", version=scene.version)
    return scene


async def _put(scoped: Scoped, scene: Scene, text: str, name: str, note: str, yes: bool, output: str) -> None:
    """Judges a text, tells what it changes, asks, and puts it into force."""
    policy = judged(text, name, scene)
    if text == scene.text:
        found: Row = {"version": scene.version, "hash": policy.hash, "changed": False}
        show(found, output)
        return
    warnings = warnings_of(policy, scene.users, scene.devices)
    changes = impact(scene.policy, policy, scene.users, scene.devices)
    if not yes or output == "table":
        tell(warnings, changes, err=True)
    confirm(f"Put this policy into force for tenant {scene.place.name!r}?", yes)
    # What was shown is what happens: nobody may have changed the policy meanwhile.
    stored = await scoped.set_policy(
        scene.place.id, text, author=actor(), note=note, expected_version=scene.version
    )
    found = {"version": stored.version, "hash": stored.hash, "changed": True}
    show(found if output == "table" else {**found, **findings(warnings, changes)}, output)


# -- telling ------------------------------------------------------------------------------------


def findings(warnings: tuple[Advice, ...], found: Impact) -> Row:
    """Warnings and impact for programs."""
    return {
        "warnings": [{"line": warning.line, "text": warning.text} for warning in warnings],
        "impact": asdict(found),
    }


def tell(warnings: tuple[Advice, ...], found: Impact, *, err: bool) -> None:
    """Warnings and impact for people."""
    for warning in warnings[:LINES]:
        click.echo(log.escape(f"warning: {warning}"), err=err)
    if len(warnings) > LINES:
        click.echo(f"warning: and {len(warnings) - LINES} more", err=err)
    for line in impact_lines(found):
        click.echo(log.escape(line), err=err)
