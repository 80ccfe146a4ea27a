"""What one hs-acs consists of while it runs: its data access, its operations, its jobs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from acs.api import clusters, jobs, joining, rebalances, tenants, tokens, usage, webhooks
from acs.api.operation import Call, Operation, Reply
from acs.health import JUDGE_EVERY_S, Judge
from acs.joining import Joiner
from acs.leader import Leader
from acs.rebalancing import Rebalancing
from acs.requests import RequestRunner
from acs.webhooks import KEPT_S, Sender
from app import __version__
from app.api.records import Service as ServiceRecord
from app.billing import month_of
from app.db.admission import Admission
from app.jobs import Job
from app.settings import Settings

#: How often old idempotent answers are forgotten.
TRIM_EVERY_S = 3600.0
#: How soon after the end of its grace a deleted tenant is purged.
PURGE_EVERY_S = 600.0
#: How soon a new cluster is admitted, where that needs nobody's word.
ADMIT_EVERY_S = 2.0
#: How soon an approved plan begins, how often one is looked for by itself, and lost clusters are.
CARRY_ON_EVERY_S = 2.0
REBALANCE_EVERY_S = 600.0
SUPERVISE_EVERY_S = 5.0
#: How often it is looked whether a month's invoices are ready, and how long after its end they are.
INVOICES_EVERY_S = 600.0
INVOICE_AFTER_S = 900.0
#: How soon webhooks are told.
DELIVER_EVERY_S = 2.0
#: How soon limits of before are in force again.
END_OVERRIDES_EVERY_S = 5.0


@dataclass(slots=True)
class Service:
    """Parts are made once, by `acs.serve`; operations and jobs are listed here and nowhere else."""

    settings: Settings
    instance: str
    admission: Admission
    #: Epoch seconds.
    clock: Callable[[], float]
    #: The deployment's Noise key: what is derived from it needs to be stored nowhere.
    deployment_key: bytes
    leader: Leader | None = None

    def joiner(self) -> Joiner:
        return Joiner(self.admission, self.settings.acs.login_server, self.clock)

    def rebalancing(self) -> Rebalancing:
        return Rebalancing(self.admission, self.settings.acs.rebalance, self.clock)

    def requests(self) -> RequestRunner:
        leader = self.leader
        epoch = (lambda: leader.epoch) if leader is not None else (lambda: None)
        return RequestRunner(self.rebalancing(), self.instance, epoch=epoch)

    def operations(self) -> list[Operation[Any]]:
        """The whole API, in the order of its page."""
        return [
            *joining.operations(self.admission, self.joiner(), self.clock),
            *tenants.operations(self.admission),
            *clusters.operations(self.admission),
            *tenants.plan_operations(self.admission),
            *tokens.operations(self.admission, self.clock),
            *rebalances.operations(self.rebalancing()),
            *usage.operations(self.admission, self.clock),
            *webhooks.operations(self.admission, self.deployment_key),
            *jobs.operations(self.admission),
            self._about(),
        ]

    def jobs(self) -> list[Job]:
        """What the leading instance does by the clock."""
        jobs = [
            Job("trim-answers", TRIM_EVERY_S, self._trim_answers),
            Job("purge-tenants", PURGE_EVERY_S, self._purge_tenants),
        ]
        jobs.append(Job("end-overrides", END_OVERRIDES_EVERY_S, self._end_overrides))
        jobs.append(Job("invoices", INVOICES_EVERY_S, self._invoices_ready))
        jobs.append(Job("trim-usage", TRIM_EVERY_S, self._trim_usage))
        sender = Sender(self.admission, self.deployment_key, self.clock)
        jobs.append(Job("deliver-webhooks", DELIVER_EVERY_S, sender.deliver))
        jobs.append(Job("trim-deliveries", TRIM_EVERY_S, self._trim_deliveries))
        jobs.append(Job("trim-requests", TRIM_EVERY_S, self._trim_requests))
        jobs.append(Job("judge-health", JUDGE_EVERY_S, Judge(self.admission).run))
        jobs.append(Job("trim-health", TRIM_EVERY_S, self._trim_health))
        rebalancing, wanted = self.rebalancing(), self.settings.acs.rebalance
        jobs.append(Job("carry-on-plans", CARRY_ON_EVERY_S, rebalancing.carry_on))
        if wanted.mode != "off":
            jobs.append(Job("rebalance", REBALANCE_EVERY_S, rebalancing.by_itself))
        if wanted.evacuate_after:
            jobs.append(Job("supervise", SUPERVISE_EVERY_S, rebalancing.supervise))
        if self.settings.acs.auto_admit:
            jobs.append(Job("admit-clusters", ADMIT_EVERY_S, self._admit_clusters))
        return jobs

    async def _invoices_ready(self) -> str:
        """Of the month before this one, once its last hours have come in."""
        this_month = datetime.fromtimestamp(self.clock() - INVOICE_AFTER_S, UTC).replace(day=1)
        month = f"{this_month - timedelta(days=1):%Y-%m}"
        since, until = month_of(month)
        said = await self.admission.say_invoices_are_ready(month, since, until, actor=f"job:{self.instance}")
        return f"those of {month} are ready" if said else f"nothing new about {month}"

    async def _end_overrides(self) -> str:
        ended = await self.admission.end_overrides(actor=f"job:{self.instance}")
        return f"ended for tenants {', '.join(map(str, ended))}" if ended else "none is over"

    async def _trim_usage(self) -> str:
        return f"{await self.admission.trim_usage()} old hours forgotten"

    async def _trim_deliveries(self) -> str:
        return f"{await self.admission.trim_deliveries(KEPT_S)} old deliveries forgotten"

    async def _trim_requests(self) -> str:
        return f"{await self.admission.trim_acs_requests()} old requests forgotten"

    async def _trim_health(self) -> str:
        samples = await self.admission.trim_load(None)
        return f"{samples} samples and {await self.admission.trim_alarms()} old alarms forgotten"

    async def _trim_answers(self) -> str:
        return f"{await self.admission.trim_answers()} old answers forgotten"

    async def _admit_clusters(self) -> str:
        admitted = await self.admission.admit_joining_clusters(actor=f"job:{self.instance}")
        return f"admitted {', '.join(admitted)}" if admitted else "nobody waits"

    async def _purge_tenants(self) -> str:
        purged = await self.admission.purge_tenants(
            self.settings.acs.deleted_grace, actor=f"job:{self.instance}"
        )
        return f"purged {', '.join(purged)}" if purged else "nothing to purge"

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
