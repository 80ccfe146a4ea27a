"""Where the operator has been: screens with their filters, to go back and forth between. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

#: Older places are forgotten.
KEPT = 50

#: A screen and its filter.
Place = tuple[str, str]


@dataclass(slots=True)
class Trail:
    """Places in the order they were visited, and which one is shown."""

    places: list[Place] = field(default_factory=list)
    at: int = -1
    last: Place | None = None

    def visit(self, place: Place) -> None:
        """A place is shown now; what was ahead is forgotten, as in a browser."""
        if self.at >= 0 and self.places[self.at] == place:
            return
        self.last = self.places[self.at] if self.at >= 0 else None
        del self.places[self.at + 1 :]
        self.places.append(place)
        del self.places[: len(self.places) - KEPT]
        self.at = len(self.places) - 1

    def step(self, by: int) -> Place | None:
        """The next older (-1) or newer (1) place, None at the end."""
        if not 0 <= self.at + by < len(self.places):
            return None
        self.last = self.places[self.at]
        self.at += by
        return self.places[self.at]
