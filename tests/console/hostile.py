"""Two hundred names that tenants may try."""

from __future__ import annotations

_PARTS = [
    "[/]", "[red]x", "[@click=app.quit]x[/]", "[bold", "[[", "[/red]", "[link=https://evil.example]x[/link]",
    "\x1b[31mred", "\x1b[2J", "\x1b]0;title\x07", "\x1b]52;c;ZXZpbA==\x07", "\x9b31m", "\x00", "\x07\x08\x0b",
    "a\nb", "a\r\nb", "a\tb", "\u202eevil", "\u2066x\u2069", "\u200bzero", "\u200d", "\ufeff", "\u00ad",
    "e\u0301\u0301\u0301\u0301\u0301\u0301", "\u0300" * 50, "日本語の名前", "한국어", "\u1100\u1161\u11a8",
    "👨‍👩‍👧‍👦",
    "🇩🇪🇫🇷", "👍🏽", "\ufe0f", "\U000e0041\U000e0042", "\ue000", "\u2028", "\u2029", "\u115f\u1160", "\u3164",
    "x" * 300, "=cmd|' /C calc'!A0", "'; DROP TABLE nodes; --", "%s%s%n", "{0}", "${x}", "$(reboot)", "`id`",
    "../../etc/passwd", "\\", "\\\\[", "\ud7ff",
    "ﷺ" * 3, "𝕎𝕚𝕕𝕖", "Ｗｉｄｅ", "\u0e33\u0e33", "क्षि",
    "مرحبا", "ﭐ", "\u2800", " ", "\u00a0",
]  # fmt: skip

NAMES = (
    _PARTS
    + [f"a{part}b" for part in _PARTS]
    + [part * 2 for part in _PARTS]
    + [f"[{part}]" for part in _PARTS]
)[:200]
