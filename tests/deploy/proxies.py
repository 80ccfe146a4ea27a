"""nginx and HAProxy as Debian packages them, with the samples of `deploy/`: only ports and paths differ."""

from __future__ import annotations

import datetime
import os
import re
import shutil
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.clients.process import Process

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
#: A normal user's PATH may lack where Debian puts daemons.
SEARCHED = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
#: Debian's file; its `defaults` section is what the sample is appended to.
HAPROXY_DEFAULTS = Path("/etc/haproxy/haproxy.cfg")
ADDRESS = "127.0.0.1"
#: A silent connection is cut after this: nginx's proxy_read_timeout, Debian's `timeout client`.
CUTS_AFTER_S = {"nginx": 60.0, "haproxy": 50.0}


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate for `ADDRESS` that signed itself: its own authority."""

    chain: Path
    key: Path

    @classmethod
    def make(cls, home: Path) -> Certificate:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hs test")])
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(ADDRESS))]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        chain, private = home / "fullchain.pem", home / "privkey.pem"
        chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return cls(chain, private)

    def context(self) -> ssl.SSLContext:
        """What a client needs to believe it."""
        return ssl.create_default_context(cafile=self.chain)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a proxy listens, what it leads to, and where it may write."""

    home: Path
    tls_port: int
    plain_port: int
    backend_port: int
    certificate: Certificate
    #: Where a standby would listen: the sample's line for it is then put in force.
    standby_port: int = 0

    @property
    def url(self) -> str:
        return f"https://{ADDRESS}:{self.tls_port}"

    @property
    def plain_url(self) -> str:
        return f"http://{ADDRESS}:{self.plain_port}"


def program(name: str) -> str:
    """The installed program; skips the test where there is none."""
    found = shutil.which(name, path=SEARCHED)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install {PACKAGES[name]})")
    return found


PACKAGES = {"nginx": "nginx-light", "haproxy": "haproxy"}


def substituted(sample: str, replacements: dict[str, str]) -> str:
    """A sample with these texts replaced; each must be there."""
    for old, new in replacements.items():
        assert old in sample, f"the sample lacks {old!r}"
        sample = sample.replace(old, new)
    return sample


def nginx_command(place: Place) -> list[str]:
    """nginx with its built-in timeouts. The command that runs it in the foreground."""
    found = program("nginx")
    home = place.home
    sample = substituted(
        (DEPLOY / "nginx" / "hs-node.conf").read_text(),
        {
            "    listen 443 ssl;": f"    listen {ADDRESS}:{place.tls_port} ssl;",
            "    listen 80;": f"    listen {ADDRESS}:{place.plain_port};",
            "server 127.0.0.1:8080;": f"server {ADDRESS}:{place.backend_port};",
            "/etc/ssl/hs.example.com/fullchain.pem": str(place.certificate.chain),
            "/etc/ssl/hs.example.com/privkey.pem": str(place.certificate.key),
        },
    )
    if place.standby_port:
        standby = f"server {ADDRESS}:{place.standby_port} backup"
        sample = substituted(sample, {"# server 192.0.2.2:8080 backup": standby})
    (home / "hs-node.conf").write_text(sample)
    scratch = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "\n".join(f"  {name}_temp_path {home / name};" for name in scratch)
    # As root, also of a user namespace, nginx would become another account; the test's files are root's.
    (home / "nginx.conf").write_text(
        f"user root;\ndaemon off;\nworker_processes 1;\npid {home / 'nginx.pid'};\nerror_log stderr notice;\n"
        f"events {{}}\nhttp {{\n{temporary}\n  access_log /dev/stdout;\n"
        f"  include {home / 'hs-node.conf'};\n}}\n"
    )
    return [found, "-p", str(home), "-e", "stderr", "-c", str(home / "nginx.conf")]


def haproxy_command(place: Place) -> list[str]:
    """HAProxy with the `defaults` of Debian's own file. The command that runs it in the foreground."""
    found = program("haproxy")
    if not HAPROXY_DEFAULTS.exists():
        pytest.skip(f"{HAPROXY_DEFAULTS} with Debian's default timeouts is not there")
    defaults = re.search(r"^defaults\n(?:[ \t].*\n|\n)*", HAPROXY_DEFAULTS.read_text(), re.MULTILINE)
    assert defaults is not None
    pem = place.home / "hs.pem"
    pem.write_bytes(place.certificate.chain.read_bytes() + place.certificate.key.read_bytes())
    sample = substituted(
        (DEPLOY / "haproxy" / "hs-node.cfg").read_text(),
        {
            "bind :443 ": f"bind {ADDRESS}:{place.tls_port} ",
            "bind :80": f"bind {ADDRESS}:{place.plain_port}",
            "server owner 127.0.0.1:8080": f"server owner {ADDRESS}:{place.backend_port}",
            "/etc/haproxy/hs.example.com.pem": str(pem),
        },
    )
    if place.standby_port:
        standby = f"server standby {ADDRESS}:{place.standby_port} check backup"
        sample = substituted(sample, {"# server standby 192.0.2.2:8080 check backup": standby})
    config = place.home / "haproxy.cfg"
    config.write_text(f"global\n    log stdout format raw local0\n\n{defaults[0]}\n{sample}")
    return [found, "-db", "-f", str(config)]


COMMANDS: dict[str, Callable[[Place], list[str]]] = {"nginx": nginx_command, "haproxy": haproxy_command}


def spawn(name: str, place: Place) -> Process:
    """The proxy, started; outside of any network namespace."""
    env = {"PATH": SEARCHED, "HOME": str(place.home)}
    return Process(name, COMMANDS[name](place), log=place.home / "log", env=env, cwd=place.home)
