"""What `hs-node policy explain` and `policy who-can-reach` do."""

from __future__ import annotations

from dataclasses import asdict

import click

from app import log
from app.errors import NotFound
from app.output import show
from app.policy.explain import explain, who_can_reach
from app.policy.words import explanation_lines, protocol_of, rule_text, split_target
from app.settings import Settings
from node.shell import administration
from node.shell_policy import scene_of


async def explain_access(
    settings: Settings, tenant: str | None, source: str, target: str, proto: str, output: str
) -> None:
    name, port = _target(target)
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
    name, port = _target(target)
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


def _target(text: str) -> tuple[str, int | None]:
    try:
        return split_target(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _protocol(text: str) -> int | None:
    try:
        return protocol_of(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--proto") from error
