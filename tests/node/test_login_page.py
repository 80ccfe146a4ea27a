"""The page of a login: what it says, and that a device's own words stay text."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.entry.login_page import HEADERS, login_page, unavailable_page
from app.keys import MachineKey, NodeKey, fingerprint
from app.model import Login, TenantId, UserId

ID = "0123456789abcdef01234567"
KEY = MachineKey(bytes(range(32)))


def login(state: str = "pending", hostname: str = "laptop", **facts: str) -> Login:
    is_approved = state == "approved"
    return Login(
        id=ID,
        seen_in="default",
        machine_key=KEY,
        node_key=NodeKey(bytes(32)),
        hostname=hostname,
        os=facts.get("os", "linux 6.1"),
        version=facts.get("version", "1.90.9"),
        capver=130,
        ephemeral=False,
        address="192.0.2.7",
        state=state,
        tenant_id=TenantId(1) if is_approved else None,
        user_id=UserId(1) if is_approved else None,
        device_id=None,
        created=0.0,
        expires=900.0,
    )


class Reader(HTMLParser):
    """Elements with their attributes, in order, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_waiting_login_shows_who_asks_and_the_command() -> None:
    page = Reader(login_page(login()))
    for text in ("laptop", "linux 6.1", "1.90.9", "0001 0203 0405 0607", "pending"):
        assert text in page.text
    assert fingerprint(KEY) == "0001 0203 0405 0607"
    assert f"hs-node auth approve {ID} --user USER" in page.text


@pytest.mark.parametrize(
    ("state", "heading"),
    [("approved", "Approved: the device may join"), ("denied", "Denied: the device may not join")],
)
def test_a_decided_login_says_so_and_shows_no_command(state: str, heading: str) -> None:
    page = login_page(login(state))
    assert f"<h1>{heading}</h1>" in page
    assert "hs-node" not in page
    assert "refresh" not in page


def test_what_is_over_and_what_never_was_look_the_same() -> None:
    assert login_page(login("expired")) == login_page(None)
    assert "is over, or never was" in login_page(None)


def test_only_a_page_that_may_change_asks_again() -> None:
    for page, asks in ((login_page(login()), True), (unavailable_page(), True), (login_page(None), False)):
        assert ('http-equiv="refresh"' in page) == asks


def test_the_policy_allows_this_style_and_nothing_else() -> None:
    page = login_page(login())
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = HEADERS["Content-Security-Policy"]
    assert f"style-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert not re.search(r"<(script|img|link|iframe|form|a)\b|\bsrc=|\bhref=", page)


@given(st.text(max_size=80), st.text(max_size=80), st.text(max_size=80))
def test_whatever_a_device_says_is_text(hostname: str, os: str, version: str) -> None:
    page = login_page(login(hostname=hostname, os=os, version=version))
    assert Reader(page).elements == Reader(login_page(login())).elements
    assert page.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "hostname",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "</dd></dl><h1>Approved</h1>",
        "<!--",
        "&lt;b&gt;",
        "\x1b[2Jroot",
        "gnp\u202eexe",
        "]]><![CDATA[",
    ],
)
def test_hostile_names(hostname: str) -> None:
    page = login_page(login(hostname=hostname))
    assert Reader(page).elements == Reader(login_page(login())).elements
    assert "\u202e" not in page
    assert "\x1b" not in page
