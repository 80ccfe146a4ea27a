"""Rows to records, in the column order of app/sql. A row never leaves app.db."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from app.model import AuthKey, Change, Device, HotState, Login, OperatorRequest, StoredPolicy, Tenant, User

DEVICE_COLUMNS = 24
USER_COLUMNS = 8
TENANT_COLUMNS = 7


def device(row: Iterable[Any]) -> Device:
    cells = list(row)
    cells[10] = tuple(cells[10])  # tags
    for index in (18, 19, 20):  # announced routes, approved routes, endpoints
        cells[index] = tuple(cells[index])
    return Device(*cells)


def hot_state(row: Iterable[Any]) -> HotState:
    cells = list(row)
    cells[2] = tuple(cells[2])  # endpoints
    return HotState(*cells)


def user(row: Iterable[Any]) -> User:
    return User(*row)


def tenant(row: Iterable[Any]) -> Tenant:
    return Tenant(*row)


def policy(row: Iterable[Any]) -> StoredPolicy:
    return StoredPolicy(*row)


def change(row: Iterable[Any]) -> Change:
    return Change(*row)


def login(row: Iterable[Any]) -> Login:
    return Login(*row)


def auth_key(row: Iterable[Any]) -> AuthKey:
    cells = list(row)
    cells[6] = tuple(cells[6])  # tags
    return AuthKey(*cells)


def request(row: Iterable[Any]) -> OperatorRequest:
    cells = list(row)
    for index in (4, 12, 13):  # args, progress, result
        cells[index] = None if cells[index] is None else orjson.loads(cells[index])
    return OperatorRequest(*cells)
