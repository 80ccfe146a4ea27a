"""RadiusLine: how far what a dialog asks would reach, counted while it is read and told when it is known."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from rich.text import Text
from textual import work
from textual.widgets import Static

from app.blast import Radius, Touched
from app.errors import HsError
from console.blast import COUNTING, Line, radius_lines, touched_by
from console.cells import Pen, safe
from console.store import Ask


class RadiusLine(Static):
    """Empty where nothing is counted. A count that fails says so; whoever asks need not wait for it."""

    def __init__(
        self,
        pen: Pen,
        count: Callable[[Touched], Awaitable[Radius]],
        asks: Sequence[Ask] = (),
        *,
        waits: bool = False,
    ) -> None:
        """`waits`: something will be counted, its place is kept."""
        super().__init__("", markup=False, id="radius")
        self.pen, self.count, self.asks = pen, count, asks
        self.touched: Touched | None = None
        self.shown: list[Text] = []
        self.display = waits or touched_by(asks) is not None

    def on_mount(self) -> None:
        self.show(self.asks)

    def show(self, asks: Sequence[Ask]) -> None:
        """Counts what these touch, unless it is what was counted last."""
        touched = touched_by(asks)
        if touched is not None and touched != self.touched:
            self.touched = touched
            self.tell([("muted", COUNTING)])
            self.look(asks, touched)

    def tell(self, lines: Sequence[Line]) -> None:
        self.shown = [self._shown(*line) for line in lines]
        self.update(Text("\n", end="").join(self.shown))

    def _shown(self, role: str, words: str) -> Text:
        """It may take two lines, so it is no cell."""
        text = f"{self.pen.glyph('attention')} {words}" if role == "attention" else words
        return Text(safe(text), self.pen.styles[role], end="")

    @work(exclusive=True)
    async def look(self, asks: Sequence[Ask], touched: Touched) -> None:
        try:
            radius = await self.count(touched)
        except HsError as error:
            self.tell([("attention", f"What it touches could not be counted: {error.message}")])
        else:
            self.tell(radius_lines(asks, radius))
