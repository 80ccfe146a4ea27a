"""The pages on which people join: a form for their token, and all that a device needs. Pure.

The token comes by the form, or behind the # of a link, which browsers send to nobody: it is in no log.
Nothing is fetched from elsewhere, and without scripts only the copy buttons are missing.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape

import segno

from app.api.records import Joining
from app.log import escape as visible

PATH = "/join"
#: Pixels of a QR code's module, and its quiet zone in modules.
QR_SCALE = 4
QR_BORDER = 4

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:46rem;padding:0 1rem}"
    "pre,input{background:#eee;color:#000;padding:1rem;font:14px/1.4 monospace;border:0;width:100%;"
    "box-sizing:border-box;white-space:pre-wrap;overflow-wrap:anywhere}"
    "button{font:inherit;padding:.4rem 1rem}figure{display:inline-block;margin:0 2rem 1rem 0}"
    ".wrong{color:#b00020;font-weight:bold}"
    "@media(prefers-color-scheme:dark){body{background:#111;color:#eee}.wrong{color:#ff8a80}}"
)
_SCRIPT = """
const field = document.querySelector("input[name=token]");
if (field && location.hash.length > 1) {
  field.value = decodeURIComponent(location.hash.slice(1));
  history.replaceState(null, "", location.pathname);
}
for (const button of document.querySelectorAll("button[data-copies]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copies);
    try {
      await navigator.clipboard.writeText(source.textContent);
    } catch {
      getSelection().selectAllChildren(source);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
  });
}
"""


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_digest(_STYLE)}'; script-src 'sha256-{_digest(_SCRIPT)}'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def form_page(wrong: str = "") -> str:
    """Asks for the token; `wrong` is why the one before did not do."""
    told = f'<p class="wrong" role="alert">{_text(wrong)}</p>\n' if wrong else ""
    return _html(
        "Join a tailnet",
        f'{told}<form method="post" action="{PATH}">\n'
        '<p><label for="token">Your join token</label></p>\n'
        '<p><input id="token" name="token" required maxlength="128" autocomplete="off" autocapitalize="off"'
        ' spellcheck="false" placeholder="hskey-join-..."></p>\n'
        "<p><button>Show me how</button></p>\n</form>\n"
        "<p>An administrator of your tailnet gives you a token. Each time you are shown how to join,"
        " a fresh auth key is made for one device.</p>",
    )


def joining_page(joining: Joining) -> str:
    """All that one device needs to join."""
    until = joining.expires_at.strftime("%Y-%m-%d %H:%M UTC")
    return _html(
        f"Join {_text(joining.tenant)}",
        "<h2>With a command line</h2>\n"
        f"{_copied('command', 'Run this on the device:', joining.command)}"
        "<h2>With an app</h2>\n"
        f"{_copied('server', 'Choose another server, and give it this address:', joining.login_server)}"
        f"{_copied('key', 'Then choose to log in with an auth key:', joining.auth_key)}"
        f"{_qr('The address', joining.login_server)}{_qr('The auth key', joining.auth_key)}"
        f"<p>The key can be used until {until}, once. It is shown this once: for another device, "
        f'<a href="{PATH}">start again</a>.</p>',
    )


def _copied(name: str, told: str, text: str) -> str:
    return (
        f'<p>{told}</p>\n<pre id="{name}">{_text(text)}</pre>\n'
        f'<p><button type="button" data-copies="{name}" hidden>Copy</button></p>\n'
    )


def _qr(caption: str, text: str) -> str:
    code = segno.make(text, error="m", micro=False)
    picture = code.svg_inline(scale=QR_SCALE, border=QR_BORDER, dark="#000", light="#fff", title=caption)
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>\n"


def _text(text: str) -> str:
    """Tenants choose names, and settings hold URLs: neither is markup."""
    return escape(visible(text))


def _html(heading: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="robots" content="noindex">\n'
        f"<title>{heading}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<h1>{heading}</h1>\n{body}\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )
