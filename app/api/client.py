"""AcsClient: the API of hs-acs as typed calls, for its commands, the demo and tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from app.api.billing import LineRecord, OverrideAsked, PricesAsked, PricesRecord, QuotaRecord, UsageRecord
from app.api.records import (
    Cluster,
    ClusterChange,
    Explanation,
    JobRecord,
    JoinAsked,
    Joining,
    JoinToken,
    JoinTokenAsked,
    JoinTokenRecord,
    MoveAsked,
    NewToken,
    Nothing,
    Page,
    Placed,
    PlanAsked,
    PlanRecord,
    Problem,
    RebalanceAsked,
    RebalanceRecord,
    Service,
    StepRecord,
    TenantAsked,
    TenantChange,
    TenantRecord,
    Token,
    TokenAsked,
)
from app.api.webhooks import DeliveryRecord, NewWebhook, WebhookAsked, WebhookRecord
from app.errors import (
    BadRequest,
    Conflict,
    HsError,
    NotFound,
    RateLimited,
    Refused,
    RemoteProtocolError,
    Unauthorized,
    Unavailable,
)

R = TypeVar("R", bound=BaseModel)

CALL_DEADLINE_S = 30.0
CONNECT_DEADLINE_S = 5.0

_ERRORS: dict[int, type[HsError]] = {
    401: Unauthorized,
    403: Refused,
    404: NotFound,
    409: Conflict,
    429: RateLimited,
    503: Unavailable,
}


class AcsClient:
    """Calls one hs-acs. Every call raises what the server says, as a member of our error family."""

    def __init__(self, url: str, token: str = "") -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._url = url
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=headers,
            timeout=httpx.Timeout(CALL_DEADLINE_S, connect=CONNECT_DEADLINE_S),
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    # -- tokens and the service -----------------------------------------------------------------

    async def service(self) -> Service:
        """Which hs-acs answers."""
        return await self.call("GET", "/v1/service", Service)

    async def create_token(self, asked: TokenAsked) -> NewToken:
        """A token; its text is in the answer and nowhere else."""
        return await self.call("POST", "/v1/tokens", NewToken, asked)

    def tokens(self) -> AsyncIterator[Token]:
        """All tokens, page by page."""
        return self.pages("/v1/tokens", Token)

    async def revoke_token(self, token_id: int) -> Token:
        """Ends a token at once."""
        return await self.call("DELETE", f"/v1/tokens/{token_id}", Token)

    async def jobs(self) -> list[JobRecord]:
        """The jobs of the leading hs-acs."""
        return (await self.call("GET", "/v1/jobs", Page[JobRecord])).items

    async def job(self, name: str) -> JobRecord:
        return await self.call("GET", f"/v1/jobs/{quote(name, safe='')}", JobRecord)

    async def run_job(self, name: str) -> JobRecord:
        """The leader is told to run it now; `requested_at` is set until it does."""
        return await self.call("POST", f"/v1/jobs/{quote(name, safe='')}/run", JobRecord)

    # -- tenants, clusters, plans ---------------------------------------------------------------

    async def place(self, asked: TenantAsked) -> Placed:
        """A tenant, new or where it is."""
        return await self.call("POST", "/v1/tenants", Placed, asked)

    async def explain(self, asked: TenantAsked) -> Explanation:
        """Where a tenant would go now."""
        return await self.call("POST", "/v1/placement/explain", Explanation, asked)

    def tenants(self, *, cluster: str | None = None, deleted: bool = False) -> AsyncIterator[TenantRecord]:
        """All tenants, page by page."""
        query = {"deleted": str(deleted).lower(), **({} if cluster is None else {"cluster": cluster})}
        return self.pages("/v1/tenants", TenantRecord, query)

    async def tenant(self, name_or_id: str | int) -> TenantRecord:
        """One tenant, by id or else by name. Raises NotFound."""
        if isinstance(name_or_id, int) or name_or_id.isdigit():
            return await self.call("GET", f"/v1/tenants/{name_or_id}", TenantRecord)
        page = await self.call("GET", "/v1/tenants", Page[TenantRecord], query={"name": name_or_id})
        return page.items[0]

    async def change_tenant(
        self, tenant_id: int, change: TenantChange, *, version: int | None = None
    ) -> TenantRecord:
        return await self.call("PATCH", f"/v1/tenants/{tenant_id}", TenantRecord, change, version=version)

    async def tenant_verb(self, tenant_id: int, verb: str) -> TenantRecord:
        """suspend, resume or restore."""
        return await self.call("POST", f"/v1/tenants/{tenant_id}/{verb}", TenantRecord)

    async def delete_tenant(self, tenant_id: int, *, version: int | None = None) -> TenantRecord:
        """It can be restored for a while."""
        return await self.call("DELETE", f"/v1/tenants/{tenant_id}", TenantRecord, version=version)

    async def clusters(self) -> list[Cluster]:
        return (await self.call("GET", "/v1/clusters", Page[Cluster])).items

    async def cluster(self, cluster_id: str) -> Cluster:
        return await self.call("GET", f"/v1/clusters/{cluster_id}", Cluster)

    async def change_cluster(
        self, cluster_id: str, change: ClusterChange, *, version: int | None = None
    ) -> Cluster:
        return await self.call("PATCH", f"/v1/clusters/{cluster_id}", Cluster, change, version=version)

    async def cluster_verb(self, cluster_id: str, verb: str) -> Cluster:
        """admit or drain."""
        return await self.call("POST", f"/v1/clusters/{cluster_id}/{verb}", Cluster)

    async def plans(self) -> list[PlanRecord]:
        return (await self.call("GET", "/v1/plans", Page[PlanRecord])).items

    async def put_plan(self, name: str, asked: PlanAsked) -> PlanRecord:
        """Makes or changes a plan, and the limits of its tenants."""
        return await self.call("PUT", f"/v1/plans/{name}", PlanRecord, asked)

    # -- moving ---------------------------------------------------------------------------------

    async def move(self, asked: MoveAsked) -> RebalanceRecord:
        """One tenant, at once. Raises NotFound, Refused."""
        return await self.call("POST", "/v1/moves", RebalanceRecord, asked)

    async def propose_rebalance(self, asked: RebalanceAsked) -> RebalanceRecord:
        return await self.call("POST", "/v1/rebalances", RebalanceRecord, asked)

    def rebalances(self) -> AsyncIterator[RebalanceRecord]:
        """The newest first."""
        return self.pages("/v1/rebalances", RebalanceRecord)

    async def rebalance(self, plan_id: int) -> RebalanceRecord:
        return await self.call("GET", f"/v1/rebalances/{plan_id}", RebalanceRecord)

    async def rebalance_steps(self, plan_id: int) -> list[StepRecord]:
        return (await self.call("GET", f"/v1/rebalances/{plan_id}/steps", Page[StepRecord])).items

    async def rebalance_verb(self, plan_id: int, verb: str, *, version: int | None = None) -> RebalanceRecord:
        """approve, pause, resume, stop or rollback. Raises NotFound, Conflict."""
        return await self.call("POST", f"/v1/rebalances/{plan_id}/{verb}", RebalanceRecord, version=version)

    # -- usage ----------------------------------------------------------------------------------

    def usage(self, query: Mapping[str, Any]) -> AsyncIterator[UsageRecord]:
        """`query`: members of UsageAsked."""
        return self.pages("/v1/usage", UsageRecord, dict(query))

    async def csv(self, path: str, query: Mapping[str, Any]) -> str:
        """A list as a table for spreadsheets."""
        return (await self.request("GET", path, query={**query, "format": "csv"})).text

    async def prices(self) -> PricesRecord:
        """Raises NotFound until they are set."""
        return await self.call("GET", "/v1/prices", PricesRecord)

    async def put_prices(self, asked: PricesAsked) -> PricesRecord:
        return await self.call("PUT", "/v1/prices", PricesRecord, asked)

    async def invoices(self, month: str) -> list[LineRecord]:
        """`month` such as 2026-11."""
        return (await self.call("GET", f"/v1/invoices/{month}", Page[LineRecord])).items

    async def quota(self, tenant_id: int) -> QuotaRecord:
        return await self.call("GET", f"/v1/tenants/{tenant_id}/quota", QuotaRecord)

    async def override(self, tenant_id: int, asked: OverrideAsked) -> QuotaRecord:
        return await self.call("PUT", f"/v1/tenants/{tenant_id}/quota/override", QuotaRecord, asked)

    async def end_override(self, tenant_id: int) -> QuotaRecord:
        return await self.call("DELETE", f"/v1/tenants/{tenant_id}/quota/override", QuotaRecord)

    # -- webhooks -------------------------------------------------------------------------------

    async def create_webhook(self, asked: WebhookAsked) -> NewWebhook:
        """With the key of its signatures, which nobody can ask for again."""
        return await self.call("POST", "/v1/webhooks", NewWebhook, asked)

    async def webhooks(self) -> list[WebhookRecord]:
        return (await self.call("GET", "/v1/webhooks", Page[WebhookRecord])).items

    async def delete_webhook(self, webhook_id: int) -> None:
        await self.call("DELETE", f"/v1/webhooks/{webhook_id}", Nothing)

    def deliveries(self, state: str) -> AsyncIterator[DeliveryRecord]:
        """`waiting`, `delivered` or `dead`; the newest first."""
        return self.pages("/v1/deliveries", DeliveryRecord, {"state": state})

    async def retry_delivery(self, delivery_id: int) -> None:
        await self.call("POST", f"/v1/deliveries/{delivery_id}/retry", Nothing)

    # -- joining --------------------------------------------------------------------------------

    async def create_join_token(self, asked: JoinTokenAsked) -> JoinToken:
        return await self.call("POST", "/v1/join-tokens", JoinToken, asked)

    def join_tokens(self) -> AsyncIterator[JoinTokenRecord]:
        """All join tokens, or those of the token's tenant, page by page."""
        return self.pages("/v1/join-tokens", JoinTokenRecord)

    async def revoke_join_token(self, token_id: int) -> JoinTokenRecord:
        """Ends a join token at once."""
        return await self.call("DELETE", f"/v1/join-tokens/{token_id}", JoinTokenRecord)

    async def join(self, asked: JoinAsked) -> Joining:
        """All that a device needs to join."""
        return await self.call("POST", "/v1/join", Joining, asked)

    # -- how all calls are made -----------------------------------------------------------------

    async def call(
        self,
        method: str,
        path: str,
        answer: type[R],
        asked: BaseModel | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        version: int | None = None,
        idempotency_key: str = "",
    ) -> R:
        """One call and its answer as a record. Raises HsError as the server says, Unavailable."""
        headers = {} if version is None else {"If-Match": f'"{version}"'}
        if idempotency_key:
            headers["Idempotency-Key"] = idempotency_key
        response = await self.request(method, path, asked, query=query, headers=headers)
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as error:
            raise RemoteProtocolError(f"{self._url} answers {method} {path} with something else") from error

    async def request(
        self,
        method: str,
        path: str,
        asked: BaseModel | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """One call, as HTTP. Raises HsError as the server says, Unavailable."""
        content = None if asked is None else asked.model_dump_json(exclude_unset=True).encode()
        sent = dict(headers or {})
        if content is not None:
            sent["Content-Type"] = "application/json"
        try:
            response = await self._http.request(method, path, content=content, params=query, headers=sent)
        except httpx.HTTPError as error:
            raise Unavailable(
                f"hs-acs at {self._url} does not answer: {error or type(error).__name__}", code="acs_away"
            ) from error
        if response.is_success:
            return response
        try:
            problem = Problem.model_validate_json(response.content)
        except ValidationError as error:
            raise RemoteProtocolError(f"{self._url} answers {response.status_code}, not as hs-acs") from error
        raise _ERRORS.get(response.status_code, BadRequest)(problem.detail, code=problem.code)

    async def pages(
        self, path: str, item: type[R], query: Mapping[str, Any] | None = None
    ) -> AsyncIterator[R]:
        """All items of a list, page by page."""
        cursor: str | None = ""
        while cursor is not None:
            asked = {**(query or {}), **({"cursor": cursor} if cursor else {})}
            page = await self.call("GET", path, Page[item], query=asked)  # type: ignore[valid-type]
            for found in page.items:
                yield found
            cursor = page.next
