"""Cluster ids, device labels, full names and tags. Pure.

Label rules: tailscale util/dnsname SanitizeHostname as PROTOCOL.md 5.2 gives them: lower case, common
suffixes cut, everything but letters and digits to dashes, at most 63, never empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from app.errors import BadRequest

MAX_LABEL = 63
MAX_FQDN = 253
MAX_HOSTNAME = 255
MAX_CLUSTER_ID = 48
MAX_TAGS = 64
FALLBACK_LABEL = "node"

_CLUSTER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}", re.ASCII)
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_NOT_LABEL = re.compile(r"[^a-z0-9-]+", re.ASCII)
_COMMON_SUFFIXES = (".local", ".localdomain", ".lan")


def check_cluster_id(cluster_id: str) -> str:
    """The id itself. Raises BadRequest for anything that is not a cluster id."""
    if not _CLUSTER_ID.fullmatch(cluster_id):
        raise BadRequest(
            f"cluster id {cluster_id!r} is not valid: it starts with a letter or digit, goes on with"
            f" letters, digits, '-' or '_', and has at most {MAX_CLUSTER_ID} characters",
            code="bad_cluster_id",
        )
    return cluster_id


def label_of(hostname: str) -> str:
    """The DNS label for a hostname as a client reports it."""
    text = hostname.strip().lower()
    for suffix in _COMMON_SUFFIXES:
        text = text.removesuffix(suffix)
    return _NOT_LABEL.sub("-", text).strip("-")[:MAX_LABEL].rstrip("-") or FALLBACK_LABEL


def check_label(label: str) -> str:
    """The label itself. Raises BadRequest when it is not a DNS label in lower case."""
    if not _LABEL.fullmatch(label):
        raise BadRequest(f"{label!r} is not a valid DNS label", code="bad_label")
    return label


def check_hostname(hostname: str) -> str:
    """The hostname itself, as a client reports it. Raises BadRequest for what no table can hold."""
    if len(hostname) > MAX_HOSTNAME or not _is_storable(hostname):
        text = f"a hostname has at most {MAX_HOSTNAME} characters, all of them Unicode, no NUL"
        raise BadRequest(text, code="bad_hostname")
    return hostname


def full_name(label: str, tenant_label: str, base_domain: str) -> str:
    """`label[.tenant].base` without the final dot. Raises BadRequest above 253 characters."""
    name = ".".join(part for part in (label, tenant_label, base_domain) if part)
    if len(name) > MAX_FQDN:
        raise BadRequest(
            f"the name {name[:40]}... is longer than {MAX_FQDN} characters", code="name_too_long"
        )
    return name


def check_tags(tags: Iterable[str]) -> list[str]:
    """Tags sorted, each once. Raises BadRequest for a malformed one, or more than MAX_TAGS."""
    wanted = sorted(set(tags))
    if len(wanted) > MAX_TAGS or not all(is_tag(tag) for tag in wanted):
        raise BadRequest(f"tags look like tag:web, at most {MAX_TAGS}", code="bad_tag")
    return wanted


def is_tag(text: str) -> bool:
    """`tag:` + a letter + letters, digits, dashes (tailcfg.CheckTag)."""
    name = text.removeprefix("tag:")
    return (
        text.startswith("tag:")
        and len(name) <= 63
        and name.isascii()
        and name[:1].isalpha()
        and name.replace("-", "a").isalnum()
    )


def _is_storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)
