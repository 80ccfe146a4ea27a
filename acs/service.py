"""What one hs-acs consists of while it runs: its data access, its operations, its jobs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from acs.api import clusters, joining, tenants, tokens
from acs.api.operation import Call, Operation, Reply
from acs.leader import Leader
from app import __version__
from app.api.records import Service as ServiceRecord
from app.db.admission import Admission
from app.jobs import Job
from app.settings import Settings

#: How often old idempotent answers are forgotten.
TRIM_EVERY_S = 3600.0


@dataclass(slots=True)
class Service:
    """Parts are made once, by `acs.serve`; operations and jobs are listed here and nowhere else."""

    settings: Settings
    instance: str
    admission: Admission
    #: Epoch seconds.
    clock: Callable[[], float]
    leader: Leader | None = None

    def operations(self) -> list[Operation[Any]]:
        """The whole API, in the order of its page."""
        return [
            *joining.operations(self.admission, self.settings.acs.login_server, self.clock),
            *tenants.operations(self.admission),
            *clusters.operations(self.admission),
            *tenants.plan_operations(self.admission),
            *tokens.operations(self.admission, self.clock),
            self._about(),
        ]

    def jobs(self) -> list[Job]:
        """What the leading instance does by the clock."""
        return [Job("trim idempotent answers", TRIM_EVERY_S, self.admission.trim_answers)]

    def _about(self) -> Operation[Any]:
        async def about(call: Call) -> Reply:
            leads = self.leader is not None and self.leader.leads
            return Reply(ServiceRecord(version=__version__, instance=self.instance, leads=leads))

        return Operation(
            "GET",
            "/v1/service",
            "Which hs-acs answers.",
            frozenset(),
            about,
            ServiceRecord,
            tags=("service",),
        )
