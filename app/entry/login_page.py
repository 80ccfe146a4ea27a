"""The page of one login: what asks to be let in, and the command that lets it. Pure: record in, HTML out.

Everything a device says about itself is a stranger's text: escaped, and never in an attribute.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape

from app.keys import fingerprint
from app.log import escape as visible
from app.model import Login

#: A waiting page asks again by itself after so many seconds.
REFRESH_S = 5

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:42rem;padding:0 1rem}"
    "dt{color:#666;font-size:.85rem}dd{margin:0 0 .8rem;overflow-wrap:anywhere}"
    "pre{background:#eee;color:#000;padding:1rem;white-space:pre-wrap;overflow-wrap:anywhere}"
    "@media(prefers-color-scheme:dark){body{background:#111;color:#eee}dt{color:#aaa}}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
}

_OVER = (
    "This login is over, or never was.",
    "<p>A login waits 15 minutes. Ask again on the device: it shows a new address.</p>",
)
_AWAY = (
    "The control server cannot reach its database at the moment.",
    "<p>This page looks again by itself.</p>",
)
_HEADINGS = {
    "pending": "A device wants to join",
    "approved": "Approved: the device may join",
    "denied": "Denied: the device may not join",
}


def login_page(login: Login | None) -> str:
    """The page of a login, of one that is over for None."""
    if login is None or login.state not in _HEADINGS:
        return _html(*_OVER, refresh=False)
    facts = [
        ("Device", _text(login.hostname) or "(no name)"),
        ("System", _text(login.os) or "unknown"),
        ("Tailscale", _text(login.version) or "unknown"),
        ("Key fingerprint", fingerprint(login.machine_key)),
        ("State", login.state),
    ]
    if login.ephemeral:
        facts.append(("Ephemeral", "yes: the device is deleted when it is gone"))
    parts = ["<dl>", *(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in facts), "</dl>"]
    if login.state == "pending":
        parts += [
            "<p>If this is your device, let an administrator run this command on the control server:</p>",
            f"<pre>hs-node auth approve {login.id} --user USER</pre>",
            "<p>Approve only what you expect: compare name and fingerprint with the device's owner.</p>",
        ]
    return _html(_HEADINGS[login.state], "\n".join(parts), refresh=login.state == "pending")


def unavailable_page() -> str:
    return _html(*_AWAY, refresh=True)


def _text(text: str) -> str:
    return escape(visible(text))


def _html(heading: str, body: str, *, refresh: bool) -> str:
    again = f'<meta http-equiv="refresh" content="{REFRESH_S}">\n' if refresh else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="robots" content="noindex">\n'
        f"{again}<title>{heading}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<h1>{heading}</h1>\n{body}\n</body>\n</html>\n"
    )
