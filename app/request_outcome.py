"""What comes of carrying a request out: one rule for the owner of a cluster and for hs-acs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from app import log
from app.errors import HsError, LeaseLost, Unavailable
from app.model import OperatorRequest
from app.request_kinds import RequestArgs, parse_request

_log = log.get("requests")

#: A request that was taken up so often without an outcome is given up.
MAX_ATTEMPTS = 10

Result = dict[str, Any]


async def outcome_of(
    request: OperatorRequest, carry_out: Callable[[RequestArgs], Awaitable[Result]]
) -> tuple[Result | None, str | None]:
    """(result, error): a refusal is an outcome, its sentence is what the operator sees.

    What was changed meanwhile is `conflict` in the result.

    Raises LeaseLost and Unavailable: the request is taken up again then.
    """
    if request.attempts > MAX_ATTEMPTS:
        return None, f"given up after {MAX_ATTEMPTS} attempts: the server's log says why"
    try:
        return await carry_out(parse_request(request.kind, request.args)), None
    except (LeaseLost, Unavailable):
        raise
    except HsError as error:
        # Field -> (seen, now): what the console shows as a difference.
        changed = error.facts.get("changed")
        return ({"conflict": changed} if changed else None), error.message
    except Exception:  # noqa: BLE001 - a defect in one handler must not stop the others
        _log.exception("request_crashed", request=request.id, kind=request.kind)
        return None, "a defect of the server: its log says more"
