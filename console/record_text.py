"""What an owner tells of a device, as the tabs of its record show it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from rich.text import Text

from console.cells import Pen, age, plural, size_text

Look = Mapping[str, Any]

#: Of a list within one line no more is named.
NAMED = 3
PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6"}
ANY_PORT = (0, 65535)


def peers_text(pen: Pen, look: Look) -> Text:
    """Who it would see now."""
    peers = look["would_get"].get("Peers") or []
    total = _total(look, "would_get.Peers", peers)
    lines = [pen.cell(f"It would be told of {plural(total, 'peer')} now.", "strong")]
    for peer in peers:
        online = peer.get("Online")
        state = pen.state("ok", "online ") if online else pen.state("off", "offline")
        addresses = [_bare(text) for text in peer.get("Addresses") or []]
        own = set(peer.get("Addresses") or [])
        routes = [text for text in peer.get("AllowedIPs") or [] if text not in own]
        line = pen.join(state, "  ", pen.cell(_name(peer), width=26), "  ", _some(addresses, 0, 2))
        if routes:
            line.append_text(pen.cell("  routes " + _some(routes, len(routes)), "change"))
        if peer.get("Expired"):
            line.append_text(pen.cell("  expired", "failed"))
        lines.append(line)
    return _page(lines, total - len(peers))


def filter_text(pen: Pen, look: Look) -> Text:
    """Whom it would let in now, and where."""
    filters = look["would_get"].get("PacketFilters") or {}
    lines: list[Text] = []
    total = shown = 0
    for name, rules in filters.items():
        rules = rules or []
        total += _total(look, f"would_get.PacketFilters.{name}", rules)
        shown += len(rules)
        lines += [_rule_line(pen, look, name, rule) for rule in rules]
    words = f"It would let in by {plural(total, 'rule')} now." if total else "It would let nobody in now."
    return _page([pen.cell(words, "strong"), *lines], total - shown)


def _rule_line(pen: Pen, look: Look, name: str, rule: Look) -> Text:
    place = f"would_get.PacketFilters.{name}"
    sources = rule.get("SrcIPs") or []
    line = pen.join(_some(sources, _total(look, f"{place}.SrcIPs", sources)), pen.cell(" -> ", "muted"))
    targets = [f"{port['IP']}:{_ports(port.get('Ports') or {})}" for port in rule.get("DstPorts") or []]
    if targets:
        line.append_text(pen.cell(_some(targets, _total(look, f"{place}.DstPorts", targets))))
        protocols = [PROTOCOLS.get(number, str(number)) for number in rule.get("IPProto") or []]
        line.append_text(pen.cell("  " + (", ".join(protocols) or "tcp, udp, icmp"), "muted"))
    for grant in rule.get("CapGrant") or []:
        line.append_text(pen.cell(_some(grant.get("Dsts") or [], 0)))
        line.append_text(pen.cell("  capability " + _some(list(grant.get("CapMap") or {}), 0), "muted"))
    return line


def map_text(pen: Pen, look: Look) -> Text:
    """What it would get, what it was sent last, and what of it is outstanding, as far as it is recorded."""
    session = look["session"]
    lines = [pen.cell("What it would get now: a whole map", "strong")]
    wanted = look["would_get"]
    for name, value in wanted.items():
        if isinstance(value, list):
            told = f"{_total(look, f'would_get.{name}', value):,} entries"
        elif isinstance(value, dict):
            told = f"{len(value):,} fields"
        else:
            told = str(value)
        lines.append(pen.join(pen.cell(f"  {name}", "muted", 24), "  ", told))
    lines += [Text(""), pen.cell("What it was sent last", "strong")]
    if session is None:
        lines += [pen.cell("  It is not connected to this owner: nothing is recorded of earlier sessions.")]
        return _page(lines, 0)
    missed = session["missed"]
    lines += [
        pen.cell(f"  session {session['state']} for {age(session['open_s'])}, messages as {session['form']}"),
        pen.cell(
            f"  {plural(session['messages'], 'message')}, {size_text(session['bytes'])} in all,"
            f" the last {_ago(session['last_sent_s_ago'])}; {size_text(session['unsent_bytes'])} unsent"
        ),
        pen.cell(f"  last whole map: {_whole(session)}; its text is not kept"),
    ]
    lines += [Text(""), pen.cell("The difference", "strong")]
    if missed:
        many = _total(look, "session.missed", missed)
        lines.append(pen.state("attention", f"it has not been told of changes of {plural(many, 'device')}:"))
        lines.append(pen.cell("  ids " + _some([str(number) for number in missed], many, len(missed))))
        lines.append(pen.cell("  It does not read what it is sent; it gets a whole map when it does again."))
    elif session["state"] == "live":
        lines.append(
            pen.state("ok", "none is recorded: it is live, each change was put on its way as a delta")
        )
    else:
        lines.append(pen.state("change", f"none is recorded; it is {session['state']}, not live"))
    lines.append(Text(""))
    if session["last_delta"] is None:
        lines.append(pen.cell("The last delta: none since that map", "strong"))
    else:
        lines += [pen.cell("The last delta", "strong"), *_json_lines(pen, session["last_delta"])]
    return _page(lines, 0)


def json_text(pen: Pen, value: object) -> Text:
    """Any value as indented JSON."""
    return Text("\n", end="").join(_json_lines(pen, value))


def _json_lines(pen: Pen, value: object) -> list[Text]:
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2, default=repr).decode()
    return [pen.cell(line) for line in text.splitlines()]


def _page(lines: list[Text], rest: int) -> Text:
    return Text("\n", end="").join([*lines, *([Text(f"and {rest:,} more")] if rest > 0 else [])])


def _total(look: Look, path: str, kept: list[Any]) -> int:
    """How many there were before the list was cut."""
    found: int = look["cut"].get(path, 0)
    return max(found, len(kept))


def _some(names: list[str], total: int, named: int = NAMED) -> str:
    """The first names and how many more there are."""
    rest = max(total, len(names)) - len(names[:named])
    return ", ".join(names[:named]) + (f" and {rest:,} more" if rest > 0 else "")


def _name(peer: Look) -> str:
    return str(peer.get("Name", "")).partition(".")[0]


def _bare(text: str) -> str:
    return text.removesuffix("/32").removesuffix("/128")


def _ports(ports: Look) -> str:
    first, last = ports.get("First", 0), ports.get("Last", 0)
    if (first, last) == ANY_PORT:
        return "*"
    return str(first) if first == last else f"{first}-{last}"


def _ago(seconds: float) -> str:
    return "now" if seconds < 1 else f"{age(seconds)} ago"


def _whole(session: Look) -> str:
    if session["last_map_s_ago"] is None:
        return "none yet"
    return f"{_ago(session['last_map_s_ago'])}, {size_text(session['last_map_bytes'])}"
