"""Bounds of numbers, as part of an annotation: `Annotated[float, Range(least=0, below=1)]`.

Options of models and optimizers and the fields of the config use these names; `core.typed` checks
them wherever a value enters.
"""

import dataclasses
from typing import Annotated


@dataclasses.dataclass(frozen=True)
class Range:
    """The values a number may have: `least` and `most` are among them, `above` and `below` not."""

    least: int | float | None = None
    above: int | float | None = None
    most: int | float | None = None
    below: int | float | None = None

    def __contains__(self, value: int | float) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        bounds = {"of at least": self.least, "above": self.above}
        bounds |= {"at most": self.most, "below": self.below}
        return " and ".join(f"{word} {b}" for word, b in bounds.items() if b is not None)


Natural = Annotated[int, Range(least=0)]
Count = Annotated[int, Range(least=1)]
NonNegative = Annotated[float, Range(least=0)]
Positive = Annotated[float, Range(above=0)]
Fraction = Annotated[float, Range(least=0, most=1)]
ProperFraction = Annotated[float, Range(least=0, below=1)]
Share = Annotated[float, Range(above=0, most=1)]
