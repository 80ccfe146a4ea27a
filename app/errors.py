"""The error family. Raise the narrow one near the cause; map it once, at an edge.

Edges: tunnel answers (node/tunnel.py), HTTP answers (node/web.py), the shell (exit code and one
line on stderr), a daemon's outermost frame (log line).
"""

from __future__ import annotations

from typing import Any


class HsError(Exception):
    """Something the product refuses or cannot do, with a sentence a person can act on.

    `code` is a stable lower_snake word for programs; `facts` are fields for the log.
    """

    code = "error"
    retryable = False
    exit_code = 1

    def __init__(self, message: str, *, code: str | None = None, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.facts = facts


class ConfigError(HsError):
    """A setting is wrong; names key, value and reason. Stops the start."""

    code = "config"
    exit_code = 2


class BadRequest(HsError):
    """A request that can never succeed as it stands."""

    code = "bad_request"


class NotFound(HsError):
    """The named thing does not exist in this scope."""

    code = "not_found"


class Conflict(HsError):
    """The thing exists already, or changed since it was read."""

    code = "conflict"


class Refused(HsError):
    """Allowed in general, refused here: an invalid auth key, a quota, a rule."""

    code = "refused"


class Unauthorized(HsError):
    """The caller has not shown who it is."""

    code = "unauthorized"


class RateLimited(HsError):
    """Too many calls; `retry_after_s` among the facts says when to come again."""

    code = "rate_limited"
    retryable = True


class WrongCluster(HsError):
    """The object lives in another cluster now; whoever asked should be routed again."""

    code = "wrong_cluster"
    retryable = True


class Unavailable(HsError):
    """A part we depend on does not answer now."""

    code = "unavailable"
    retryable = True
    exit_code = 3


class LeaseTaken(HsError):
    """Another instance owns the cluster."""

    code = "lease_taken"
    exit_code = 4


class LeaseLost(HsError):
    """This instance owns the cluster no more: stop writing now. SQLSTATE HS409."""

    code = "lease_lost"
    exit_code = 4


class RemoteProtocolError(HsError):
    """The other side broke the protocol; closes that connection only."""

    code = "remote_protocol"


class LocalProtocolError(HsError):
    """We would break the protocol: a defect of ours."""

    code = "local_protocol"
