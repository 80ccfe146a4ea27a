"""Pure parts: names and auth key texts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadRequest
from app.names import MAX_FQDN, MAX_LABEL, check_cluster_id, check_label, full_name, label_of
from app.tokens import RANDOM_BYTES, make_auth_token, parse_auth_token


@pytest.mark.parametrize(
    ("hostname", "label"),
    [
        ("Laptop", "laptop"),
        ("My MacBook Pro.local", "my-macbook-pro"),
        ("host.lan", "host"),
        ("host.localdomain", "host"),
        ("a.b.c", "a-b-c"),
        ("Bob's iPhone (2)", "bob-s-iphone-2"),
        ("--x--", "x"),
        ("a_b", "a-b"),
        ("", "node"),
        ("...", "node"),
        ("日本", "node"),
        ("é1", "1"),
        ("x" * 80, "x" * 63),
        ("x" * 62 + "-y", "x" * 62),
        ("\x1b[31mred", "31mred"),
    ],
)
def test_labels(hostname: str, label: str) -> None:
    assert label_of(hostname) == label


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_every_hostname_has_a_valid_stable_label(hostname: str) -> None:
    label = label_of(hostname)
    assert check_label(label) == label
    assert len(label) <= MAX_LABEL
    assert label_of(label) == label


@pytest.mark.parametrize("label", ["", "-a", "a-", "A", "a.b", "a" * 64, "ä", "a\n"])
def test_bad_labels(label: str) -> None:
    with pytest.raises(BadRequest):
        check_label(label)


@pytest.mark.parametrize("cluster_id", ["default", "1", "A", "eu-west_1", "a" * 48])
def test_cluster_ids(cluster_id: str) -> None:
    assert check_cluster_id(cluster_id) == cluster_id


def test_full_names() -> None:
    assert full_name("a", "", "hs.internal") == "a.hs.internal"
    assert full_name("a", "acme", "hs.internal") == "a.acme.hs.internal"
    base = ".".join(["x" * 61] * 4)
    assert len(full_name("a" * 5, "", base)) == MAX_FQDN
    with pytest.raises(BadRequest, match="253"):
        full_name("a" * 6, "", base)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 2**63 - 1), st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES))
def test_tokens_round_trip(tenant_id: int, random: bytes) -> None:
    text, token = make_auth_token(tenant_id, random)
    assert parse_auth_token(text) == token
    assert parse_auth_token(f" {text}\n") == token
    assert "--TL" not in text
    assert not text.startswith(("tskey-client-", "file:"))
    assert random[6:].hex() not in repr(token)
    assert token.hash.hex() not in text


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=120))
def test_other_texts_are_no_tokens(text: str) -> None:
    assert parse_auth_token(text) is None


@pytest.mark.parametrize(
    "text",
    [
        f"hskey-auth-0-{'a' * 12}-{'b' * 64}",
        f"hskey-auth-9999999999999999999-{'a' * 12}-{'b' * 64}",
        f"hskey-auth-1-{'a' * 11}-{'b' * 64}",
        f"hskey-auth-1-{'a' * 12}-{'b' * 63}",
        f"hskey-auth-1-{'A' * 12}-{'b' * 64}",
        f"hskey-auth-١-{'a' * 12}-{'b' * 64}",
        f"hskey-api-1-{'a' * 12}-{'b' * 64}",
    ],
)
def test_malformed_tokens(text: str) -> None:
    assert parse_auth_token(text) is None


def test_wrong_amount_of_randomness() -> None:
    with pytest.raises(ValueError, match="38"):
        make_auth_token(1, b"x")
