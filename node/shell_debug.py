"""What `hs-node debug` does: asks the running server on this machine."""

from __future__ import annotations

from typing import Any

import httpx
import orjson

from app.errors import NotFound, Unavailable
from app.netmap.compare import differences, missed
from app.output import show
from app.settings import Settings
from node.shell import administration
from node.shell_devices import find_device

ANSWER_DEADLINE_S = 20.0


async def debug_device(settings: Settings, tenant: str | None, which: str, ask: bool, output: str) -> None:
    async with administration(settings) as scoped:
        device = await find_device(scoped, await scoped.tenant(tenant), which)
    base = f"http://{settings.metrics_listen_addr}/debug"
    async with httpx.AsyncClient(timeout=ANSWER_DEADLINE_S, trust_env=False) as client:
        facts = await _get(client, "GET", f"{base}/device/{device.id}")
        session = facts["session"]
        held: dict[str, Any] | None = None
        why_not = "" if session else "the device is not connected"
        if ask and session:
            try:
                held = await _get(client, "POST", f"{base}/c2n/{device.id}", path="/debug/netmap")
            except (Unavailable, NotFound) as error:
                why_not = error.message
    would_get = facts["would_get"]
    differs = None if held is None else differences(would_get, held)
    if differs is None and session and session["missed"]:
        differs = missed(would_get, session["missed"])
    if output != "table":
        show({"device": device.id, **facts, "client": held, "differences": differs, "asked": why_not}, output)
        return
    row: dict[str, Any] = {"device": device.id, "name": would_get["Node"]["Name"]}
    row |= session or {"state": "not connected"}
    if session:
        row["missed"] = len(session["missed"])
    row |= {
        "peers": len(would_get["Peers"]),
        "filter_rules": len(would_get["PacketFilters"]["base"]),
        "ssh_rules": len(would_get.get("SSHPolicy", {}).get("rules", [])),
        "client": why_not or ("not asked" if held is None else "agrees" if not differs else "differs"),
    }
    show(row, output, upright=True)
    if differs:
        show([{"difference": text} for text in differs], output)


async def _get(client: httpx.AsyncClient, method: str, url: str, **query: str) -> dict[str, Any]:
    """A JSON object of the server. Raises NotFound, Unavailable."""
    try:
        answer = await client.request(method, url, params=query)
    except httpx.HTTPError as error:
        raise Unavailable(f"the server does not answer at {url}: {error or type(error).__name__}") from error
    if answer.status_code == 200:
        try:
            found = orjson.loads(answer.content)
        except orjson.JSONDecodeError as error:
            raise Unavailable(f"the answer of {url} is no JSON") from error
        if isinstance(found, dict):
            return found
        raise Unavailable(f"the answer of {url} is no JSON object")
    reason = " ".join(answer.text.split())[:300]
    raise (NotFound if answer.status_code == 404 else Unavailable)(f"{url}: {answer.status_code} {reason}")
