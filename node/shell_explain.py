"""What `hs-node policy explain` and `policy who-can-reach` do."""

from __future__ import annotations

from dataclasses import asdict

import click

from app import log
from app.errors import NotFound
from app.output import show
from app.policy import aliases as a
from app.policy.addresses import parse_range
from app.policy.explain import Answer, Explanation, RuleRef, explain, who_can_reach
from app.settings import Settings
from node.shell import administration
from node.shell_policy import scene_of

#: Words before a colon that belong to a name.
_PREFIXES = ("tag", "group", "autogroup")


async def explain_access(
    settings: Settings, tenant: str | None, source: str, target: str, proto: str, output: str
) -> None:
    name, port = split_target(target)
    async with administration(settings) as scoped:
        scene = await scene_of(scoped, settings, tenant)
    try:
        found = explain(scene.policy, scene.users, scene.devices, source, name, port, _protocol(proto) or 6)
    except ValueError as error:
        raise NotFound(str(error)) from error
    if output == "table":
        for line in explanation_lines(found):
            click.echo(log.escape(line))
    else:
        answers = [{"allowed": answer.allowed, **asdict(answer)} for answer in found.answers]
        show({"allowed": found.allowed, "answers": answers, "left_out": found.left_out}, output)


async def who_reaches(settings: Settings, tenant: str | None, target: str, proto: str, output: str) -> None:
    name, port = split_target(target)
    async with administration(settings) as scoped:
        scene = await scene_of(scoped, settings, tenant)
    try:
        found = who_can_reach(scene.policy, scene.users, scene.devices, name, port, _protocol(proto))
    except ValueError as error:
        raise NotFound(str(error)) from error
    if output != "table":
        show([asdict(one) for one in found], output)
        return
    show(
        [
            {
                "rule": rule_text(one.rule),
                "source": source.source,
                "devices": list(source.devices),
                "target": one.device,
                "ports": one.ports,
                "through": one.through or None,
            }
            for one in found
            for source in one.sources
        ],
        output,
    )


def split_target(text: str) -> tuple[str, int | None]:
    """`web:22` -> name and port; without a port, None. IPv6 with a port: `[fd7a::1]:22`."""
    text = text.strip()
    name, colon, port = text.rpartition(":")
    if text.startswith("["):
        inner, _, rest = text[1:].partition("]")
        name, colon, port = inner, rest[:1], rest[1:]
        if not rest:
            return inner, None
    elif parse_range(text) is not None or name in _PREFIXES:
        return text, None
    if not colon or not name or port == "*":
        return name or text, None
    if not (port.isascii() and port.isdigit() and int(port) <= a.ALL_PORTS[1]):
        # A name may hold a colon itself: tag:web.
        if name.partition(":")[0] in _PREFIXES or not port[:1].isdigit():
            return text, None
        raise click.BadParameter(f"{port!r} is no port from 0 to 65535")
    return name, int(port)


def _protocol(text: str) -> int | None:
    try:
        protos = a.protocol(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--proto") from error
    return protos[0] if protos else None


def rule_text(rule: RuleRef) -> str:
    return f"{rule.kind}, line {rule.line}" if rule.kind else "no policy"


def explanation_lines(found: Explanation) -> list[str]:
    """An explanation as sentences."""
    lines: list[str] = []
    for answer in found.answers:
        lines += _answer_lines(answer)
    if found.left_out:
        lines.append(f"and {found.left_out} more pairs of devices")
    return lines or ["source and target are the same device"]


def _answer_lines(answer: Answer) -> list[str]:
    ends = f"{answer.source} -> {answer.target}"
    if not answer.ways:
        return [
            f"{ends}: not allowed",
            *(
                f"  {rule_text(miss.rule)}: {miss.reason}" if miss.rule else f"  {miss.reason}"
                for miss in answer.misses
            ),
            *([] if answer.misses else ["  no rule speaks of either"]),
        ]
    lines = [f"{ends}: allowed"]
    for way in answer.ways:
        through = f", through {way.through.removeprefix(', ')}" if way.through else ""
        lines.append(f"  {rule_text(way.rule)}: {way.source} -> {way.target}, ports {way.ports}{through}")
        if way.rule.text:
            lines.append(f"    {' '.join(way.rule.text.split())}")
    return lines
