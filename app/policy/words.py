"""Impacts and explanations of policies as sentences, and what people write to ask for one. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from app.counting import counted
from app.policy import aliases as a
from app.policy.addresses import parse_range
from app.policy.explain import Answer, Explanation, Reachable, RuleRef
from app.policy.impact import Changes, Impact

#: Lines of an impact that are told of each sort.
LINES = 20
#: Words before a colon that belong to a name.
_PREFIXES = ("tag", "group", "autogroup")


def split_target(text: str) -> tuple[str, int | None]:
    """`web:22` -> name and port; without a port, None. IPv6 with a port: `[fd7a::1]:22`.

    Raises ValueError.
    """
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
        raise ValueError(f"{port!r} is no port from 0 to 65535")
    return name, int(port)


def protocol_of(text: str) -> int | None:
    """`tcp`, `udp`, a number, or nothing. Raises ValueError."""
    protos = a.protocol(text)
    return protos[0] if protos else None


def impact_lines(found: Impact) -> Iterator[str]:
    """An impact as sentences, the most important changes first."""
    if found.is_none:
        yield "nothing changes for the devices there are"
        return
    for changes, words in (
        (found.gained, "gain access"),
        (found.lost, "lose access"),
        (found.ssh_gained, "gain SSH logins"),
        (found.ssh_lost, "lose SSH logins"),
    ):
        yield from _change_lines(changes, words)
    if found.approved:
        yield f"{counted(len(found.approved), 'route')} approved by it:"
        yield from (f"  {device} {route}" for device, route in found.approved[:LINES])
        if len(found.approved) > LINES:
            yield f"  and {len(found.approved) - LINES} more"
    told = [("packet filter", found.filters), ("other peers", found.peers), ("SSH rules", found.ssh)]
    yield "sent anew: " + ", ".join(f"{what} to {counted(count, 'device')}" for what, count in told)


def _change_lines(changes: Changes, words: str) -> Iterator[str]:
    if not changes.pairs:
        return
    pairs = "1 pair of devices" if changes.pairs == 1 else f"{changes.pairs} pairs of devices"
    yield f"{pairs} {words}:"
    for change in changes.listed[:LINES]:
        sources = _some(change.sources, change.source_count)
        targets = "the same user's" if change.own else _some(change.targets, change.target_count)
        yield f"  {sources} -> {targets}: {', '.join(change.what)} ({counted(change.pairs, 'pair')})"
    rest = len(changes.listed) - LINES + changes.left_out
    if rest > 0:
        yield f"  and {rest} more"


def _some(names: tuple[str, ...], count: int) -> str:
    told = names[:5]
    more = count - len(told)
    return ", ".join(told) + (f" and {more} more" if more > 0 else "")


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


def reach_lines(found: tuple[Reachable, ...]) -> list[str]:
    """Who may reach something, by rule, as sentences."""
    lines = []
    for one in found:
        through = f", through {one.through}" if one.through else ""
        lines.append(f"{rule_text(one.rule)}: to {one.device or one.target}, ports {one.ports}{through}")
        for source in one.sources:
            lines.append(
                f"  {source.source}: {_some(source.devices, len(source.devices)) or 'no device now'}"
            )
    return lines or ["nobody may reach it"]
