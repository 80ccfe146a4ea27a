"""Texts of single settings, checked and turned into values. Pure; every refusal is a ValueError."""

from __future__ import annotations

import ipaddress
import math
import re
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

CLUSTER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}")
#: The v4 and v6 ranges clients treat as theirs (tailscale net/tsaddr: CGNATRange, TailscaleULARange).
CGNAT = ipaddress.IPv4Network("100.64.0.0/10")
TAILSCALE_ULA = ipaddress.IPv6Network("fd7a:115c:a1e0::/48")
#: Smaller ranges cannot hold two devices beside the reserved addresses.
LONGEST_V4_PREFIX = 29
LONGEST_V6_PREFIX = 120
MAX_DOMAIN_LENGTH = 253
#: Longest duration, seconds: one hundred years.
MAX_DURATION_S = 100 * 365 * 86400.0
#: The original's config.yaml ships this text; it stands for "not filled in".
PLACEHOLDER_URL = "http://ip:port"
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
HIDDEN = "********"

_UNITS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 604800.0,
    "y": 31536000.0,
}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d|w|y)")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?")


def parse_duration(value: Any) -> Any:
    """`1h30m`, `120s`, `7d` or 0 to seconds. Units as Go's time.ParseDuration, and d, w, y."""
    if isinstance(value, bool) or (isinstance(value, int | float) and value != 0):
        raise ValueError("needs a unit, such as 30s, 10m or 3h")
    if value == 0 or value == "0":
        return 0.0
    if not isinstance(value, str) or not re.fullmatch(f"(?:{_PART.pattern})+", value):
        raise ValueError("is not a duration such as 30s, 10m or 3h")
    seconds = math.fsum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value))
    if seconds > MAX_DURATION_S:
        raise ValueError("is longer than a hundred years")
    return seconds


def parse_cluster_id(value: Any) -> Any:
    """Text or integer to the text form."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError("must be a text or an integer; put it in quotes")
    if not CLUSTER_ID.fullmatch(value):
        raise ValueError("must have 1 to 48 letters, digits, - or _, and start with a letter or digit")
    return value


def split_host_port(text: str) -> tuple[str, int]:
    """`host:port`, `:port` or `[v6]:port` to its parts; an empty host means every address."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("must be host:port with a port from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = str(ipaddress.IPv6Address(host[1:-1]))
    elif ":" in host:
        raise ValueError("must have an IPv6 address in brackets, such as [::1]:8080")
    elif host and not is_domain(host.lower()):
        raise ValueError("has a host that is neither a name nor an address")
    return host, int(port)


def check_listen(text: str) -> str:
    split_host_port(text)
    return text


def check_internal(text: str) -> str:
    """Where other instances reach this one: it is told to them as it stands."""
    host, _ = split_host_port(text)
    if host in ("", "0.0.0.0", "::"):
        raise ValueError("must name one address of this host: other instances connect to it")
    return text


def check_listen_or_off(text: str) -> str:
    return check_listen(text) if text else text


def is_domain(text: str) -> bool:
    return len(text) <= MAX_DOMAIN_LENGTH and all(_LABEL.fullmatch(label) for label in text.split("."))


def check_domain(text: str) -> str:
    """A DNS name in lower case without the final dot."""
    name = text.lower().removesuffix(".")
    if not is_domain(name) or name.replace(".", "").isdigit():
        raise ValueError("is not a domain name such as hs.example.com")
    return name


def check_http_url(text: str) -> str:
    """An http or https URL with a host, without user, query or fragment."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"is not a URL: {error}") from error
    if parts.scheme not in ("http", "https"):
        raise ValueError("must start with http:// or https://")
    if not parts.hostname or port == 0:
        raise ValueError("needs a host, such as https://headscale.example.com")
    return text


def check_server_url(text: str) -> str:
    """The login URL, without a final slash; the empty text and the original's placeholder mean unset."""
    if text in ("", PLACEHOLDER_URL):
        return ""
    parts = urlsplit(check_http_url(text))
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("must not have a user, a query or a fragment")
    if parts.path.strip("/"):
        raise ValueError("must not have a path: clients always ask for /key and /ts2021 at the root")
    return text.rstrip("/")


def check_address(text: str) -> str:
    return str(ipaddress.ip_address(text)) if text else ""


def check_proxy(text: str) -> str:
    """An address or a network whose forwarding headers count."""
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError("is neither an IP address nor a network such as 10.0.0.0/8") from error
    if network.prefixlen == 0:
        raise ValueError("would let everybody choose the address that is logged; name your proxies")
    return str(network)


def check_nameserver(text: str) -> str:
    """An address, or a DNS-over-HTTPS URL."""
    if text.startswith("https://"):
        return check_http_url(text)
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise ValueError("is neither an IP address nor an https:// URL") from error


def split_list(value: Any) -> Any:
    """A list, or one text with commas (from the environment)."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def check_dsn(text: str) -> str:
    """A PostgreSQL URL, hosts may be several. The refusals never repeat the text."""
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise ValueError("is not a URL") from error
    if parts.scheme not in ("postgres", "postgresql"):
        raise ValueError("must be a URL such as postgresql://user:password@host:5432/database")
    if parts.fragment or "#" in text:
        raise ValueError("contains #; inside a password write it as %23")
    if any(character.isspace() for character in text):
        raise ValueError("contains a space; inside a password write it as %20")
    if parts.netloc.count("@") > 1:
        raise ValueError("contains more than one @; inside a password write it as %40")
    return text


def make_dsn(host: str, port: int, name: str, user: str, password: str, ssl: str) -> str:
    """The URL of headscale's separate database keys; a host that starts with / is a socket directory."""
    login = quote(user, safe="") + (":" + quote(password, safe="") if password else "")
    at = "@" if login else ""
    query = f"sslmode={ssl}"
    if host.startswith("/"):
        return (
            f"postgresql://{login}{at}/{quote(name, safe='')}?host={quote(host, safe='')}&port={port}&{query}"
        )
    shown = f"[{host}]" if ":" in host else host
    return f"postgresql://{login}{at}{shown}:{port}/{quote(name, safe='')}?{query}"


def mask_dsn(text: str) -> str:
    """The URL without its password."""
    parts = urlsplit(text)
    login, at, hosts = parts.netloc.rpartition("@")
    if ":" in login:
        login = login.partition(":")[0] + ":" + HIDDEN
    query = re.sub(r"(^|&)((?:ssl)?password)=[^&]*", rf"\1\2={HIDDEN}", parts.query)
    return urlunsplit(parts._replace(netloc=login + at + hosts, query=query))


def mask_urls(text: str) -> str:
    """Any text, without the passwords of URLs in it."""
    return re.sub(r"(://[^:/@\s]*):[^/\s]*@", rf"\1:{HIDDEN}@", text)


def login_url_trap(url: str) -> str:
    """Why clients fare badly with this login URL, or the empty text. See CLIENTS.md 1, fact 8."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "http":
        return ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if host == "localhost" or (address is not None and address.is_private):
        return (
            "clients have no HTTPS alternative for a private address, so that every refused connection "
            "costs them 10 s; fine for trying out, otherwise use https:// with a name"
        )
    if parts.port not in (None, 80):
        return (
            f"after the first lost connection Go clients insist on port 443 and, while they retry, "
            f"do not come back to {parts.port}; use https://, or plain http on port 80"
        )
    return ""


def check_hours(text: str) -> str:
    """`22-6`: hours of a day, from the first to before the second; '' for all of them."""
    if text:
        hours_of(text)
    return text


def hours_of(text: str) -> frozenset[int]:
    """The hours that `22-6` means: 22, 23, 0 .. 5. All for ''. Raises ValueError."""
    if not text:
        return frozenset(range(24))
    first, dash, last = text.partition("-")
    if not (dash and first.isascii() and first.isdigit() and last.isascii() and last.isdigit()):
        raise ValueError("hours are written as 22-6")
    begin, end = int(first), int(last)
    if begin > 23 or end > 24 or begin == end:
        raise ValueError("hours are 0 to 24, and 22-6 ends before 6")
    return frozenset((begin + n) % 24 for n in range((end - begin) % 24 or 24))
