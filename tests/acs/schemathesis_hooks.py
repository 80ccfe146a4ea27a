"""Loaded by schemathesis: every call comes from another client, or the limits would answer most of them."""

from __future__ import annotations

import itertools
from typing import Any

import schemathesis

_numbers = itertools.count()


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    number = next(_numbers) // 10
    case.headers["X-Forwarded-For"] = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
