"""AskingApp: what the operator asks of owners: confirmed, sent, followed to its outcome, told."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from rich.text import Text
from textual import work
from textual.app import App

from app.errors import HsError, Unavailable
from app.fleet import TenantRef
from app.model import OperatorRequest, RequestId
from console.actions import Action
from console.cells import Pen, safe
from console.conflict import ConflictDialog
from console.dialogs import ConfirmDialog, SecretDialog
from console.forms import Field, FormDialog
from console.live import Feed
from console.radius import RadiusLine
from console.rebuild import KIND as REBUILD
from console.rebuild import rebuild_text
from console.store import Ask, Store

#: A request that nobody has taken up after this long is worth a word.
QUEUED_NOTE_S = 3.0
#: Of more requests at once a word is said when all are at their end.
TOLD_ONE_BY_ONE = 5
SAID_LINES = 50

#: What a form's answers so far would touch; may raise HsError for answers that name nothing.
Touch = Callable[[dict[str, str]], list[Ask]]
Asks = Callable[[dict[str, str]], "list[Ask] | Awaitable[list[Ask]]"]


@dataclass(slots=True)
class Followed:
    """A request under way: what was asked, and since when."""

    ask: Ask
    since: float
    batch: Batch


@dataclass(slots=True)
class Batch:
    """Requests of one key press: many of them are told of once, at their end."""

    label: str
    size: int
    open: int = 0
    done: int = 0
    failed: int = 0
    error: str = ""
    noted: bool = False

    @property
    def is_told_at_its_end(self) -> bool:
        return self.size > TOLD_ONE_BY_ONE

    def settle(self, error: str | None) -> None:
        if error is None:
            self.done += 1
        else:
            self.failed += 1
            self.error = self.error or error

    def __str__(self) -> str:
        failed = f", {self.failed:,} failed: {self.error}" if self.failed else ""
        rest = self.size - self.done - self.failed
        return f"{self.label}: {self.done:,} of {self.size:,} done{failed}" + (
            f", {rest:,} not asked for" if rest else ""
        )


class AskingApp(App[None]):
    """Requests under way, dialogs in front of them, and toasts about them."""

    feed: Feed

    def __init__(
        self, store: Store, actor: str, scope: str | None, *, ascii_only: bool, clock: Callable[[], float]
    ) -> None:
        super().__init__()
        self.scope = scope
        self.store = store
        self.actor = actor
        self.pen = Pen(ascii_only)
        self.clock = clock
        self.followed: dict[RequestId, Followed] = {}
        #: What was said last: toasts vanish.
        self.said: deque[str] = deque(maxlen=SAID_LINES)

    @property
    def feed_pending(self) -> int:
        return len(self.followed)

    def note_waiting(self) -> None:
        """A word about what waits for an owner, once a key press."""
        for followed in self.followed.values():
            if not followed.batch.noted and self.clock() - followed.since > QUEUED_NOTE_S:
                followed.batch.noted = True
                cluster_id = followed.ask.cluster_id
                whom = f"the owner of cluster {cluster_id}" if cluster_id else "a leading hs-acs"
                text = f"waiting for {whom}; it is kept and carried out when there is one"
                self.say(f"{followed.ask.label}: {text}", "warning")

    def say(self, text: str, severity: str = "information") -> None:
        """A toast: one line of harmless text."""
        self.said.append(safe(text))
        self.notify(self.said[-1], severity=cast("Any", severity), markup=False)

    def confirm(
        self,
        action: Action,
        title: str,
        objects: Sequence[str],
        effect: str,
        asks: list[Ask],
        typed: str = "",
        why: str = "",
        report: Text | None = None,
    ) -> None:
        """Asks the operator, then the owner. What is asked was fixed when the key was pressed; how far it
        reaches is counted meanwhile.

        `why`: what a reason is wanted for; it goes with each request. `report`: more to read first.
        The dialog is there at once, so keys typed ahead cannot reach the list.
        """
        wanted = typed or (str(len(asks)) if len(asks) > 1 or action.tier > 1 else "")

        def decided(yes: bool | None) -> None:
            if yes and dialog.reason:
                self.submit([replace(ask, args={**ask.args, "reason": dialog.reason}) for ask in asks])
            elif yes:
                self.submit(asks)

        if not asks:
            self.say(f"{action.label}: there is nobody to ask, no cluster of these is set up", "warning")
            return
        verb = action.label.capitalize()
        radius = RadiusLine(self.pen, self.store.radius, asks)
        dialog = ConfirmDialog(self.pen, title, objects, effect, verb, wanted, why, report, radius)
        self.push_screen(dialog, decided)

    def why_not_now(self) -> str:
        """Why nothing can be asked at this moment; empty when it can."""
        return "" if self.feed.link.is_up else "the database is not connected; this stays until it is back"

    def form(
        self,
        title: str,
        fields: Sequence[Field],
        verb: str,
        effect: str,
        asks: Asks,
        touch: Touch | None = None,
    ) -> None:
        """A form; its answers become requests. A refusal opens it again with what was typed.

        `touch`: what is counted while it is filled in, by the answers so far.
        """

        def answered(answers: dict[str, str] | None) -> None:
            if answers is not None:
                filled = [_filled(field, answers) for field in fields]
                self.submit_form(answers, asks, lambda: self.form(title, filled, verb, effect, asks, touch))

        radius = RadiusLine(self.pen, self.store.radius, waits=touch is not None)
        dialog = FormDialog(self.pen, title, fields, verb, effect, self.why_not_now, radius, touch)
        self.push_screen(dialog, answered)

    @work(group="ask", exit_on_error=True)
    async def submit(self, asks: list[Ask]) -> None:
        await self._submit(asks)

    @work(group="ask", exit_on_error=True)
    async def submit_form(self, answers: dict[str, str], asks: Asks, again: Callable[[], None]) -> None:
        try:
            made = asks(dict(answers))
            sent = await self._submit(await made if inspect.isawaitable(made) else made)
        except HsError as error:
            self.say(error.message, "error")
            sent = 0
        if not sent:
            again()

    async def _submit(self, asks: list[Ask]) -> int:
        """How many of them are stored; of the others it is told why not."""
        label = asks[0].label + (f" and {len(asks) - 1:,} more" if len(asks) > 1 else "") if asks else ""
        batch, sent = Batch(label, len(asks)), 0
        #: Held open until the last is sent, so its end is told once.
        batch.open = 1
        for ask in asks:
            try:
                request_id = await self.store.submit(ask, self.actor)
            except HsError as error:
                batch.settle(error.message)
                if not batch.is_told_at_its_end:
                    self.say(f"{ask.label}: {error.message}", "error")
                elif isinstance(error, Unavailable):
                    # The others would wait for the same link, one timeout after the other.
                    break
                continue
            batch.open += 1
            self.followed[request_id] = Followed(ask, self.clock(), batch)
            self.feed.followed[request_id] = ask.label
            sent += 1
        self._close(batch)
        self.feed.kick()
        return sent

    def _close(self, batch: Batch) -> None:
        batch.open -= 1
        if batch.open == 0 and batch.is_told_at_its_end:
            self.say(str(batch), "error" if batch.failed else "information")

    def _take_vanished(self, request_id: RequestId) -> None:
        followed = self.followed.pop(request_id, None)
        if followed is None:
            return
        gone = "the request is gone, its outcome is not known"
        followed.batch.settle(gone)
        if not followed.batch.is_told_at_its_end:
            self.say(f"{followed.ask.label}: {gone}", "warning")
        self._close(followed.batch)

    def _take_request(self, request: OperatorRequest) -> None:
        if not request.is_finished or request.id not in self.followed:
            return
        followed = self.followed.pop(request.id)
        ask = followed.ask
        followed.batch.settle(request.error or request.state if request.state != "done" else None)
        if followed.batch.is_told_at_its_end:
            self._close(followed.batch)
        elif request.state == "failed":
            self.say(f"{ask.label}: {request.error}", "error")
            changed = (request.result or {}).get("conflict")
            if changed:
                self.push_screen(ConflictDialog(self.pen, ask.label, changed), self._reload_or_not)
        else:
            cost = f", {rebuild_text(request.result)}" if ask.kind == REBUILD and request.result else ""
            self.say(f"{ask.label}: done{cost}")
            if ask.secret:
                self.push_screen(SecretDialog(ask.secret))
        self.feed.kick()

    def _reload_or_not(self, reload: bool | None) -> None:
        """Nothing was written; what is on the screen is read anew, so the next wish is made from that."""
        if reload:
            self.feed.kick(urgent=True)

    @work(group="tenants", exclusive=True, exit_on_error=True)
    async def with_tenants(self, go_on: Callable[[Sequence[TenantRef]], None]) -> None:
        """Goes on with the tenants there are; a word instead when there are none."""
        try:
            tenants = await self.store.tenants(self.scope)
        except HsError as error:
            self.say(error.message, "error")
            return
        if tenants:
            go_on(tenants)
        else:
            self.say("there is no tenant yet: start hs-node serve", "warning")


def _filled(field: Field, answers: dict[str, str]) -> Field:
    return Field(
        field.name,
        field.label,
        answers.get(field.name, field.value),
        field.choices,
        field.is_flag,
        field.check,
        field.hint,
    )
