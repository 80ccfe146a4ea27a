"""Rows to records, in the column order of app/sql. A row never leaves app.db."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from app.model import AuthKey, Change, Device, Tenant, User

DEVICE_COLUMNS = 22
USER_COLUMNS = 7
TENANT_COLUMNS = 7


def device(row: Iterable[Any]) -> Device:
    # Two lists become tuples on the way; positions are cheaper than names for 100,000 rows.
    head = tuple(row)
    return Device(*head[:10], tuple(head[10]), *head[11:18], tuple(head[18]), *head[19:])


def user(row: Iterable[Any]) -> User:
    return User(*row)


def tenant(row: Iterable[Any]) -> Tenant:
    return Tenant(*row)


def change(row: Iterable[Any]) -> Change:
    return Change(*row)


def auth_key(row: Iterable[Any]) -> AuthKey:
    head = tuple(row)
    return AuthKey(*head[:6], tuple(head[6]), *head[7:])
