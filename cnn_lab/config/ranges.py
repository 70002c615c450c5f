"""Bounds of numbers, as part of an annotation: `Annotated[float, Range(min=0, below=1)]`.

Options of models and optimizers and the fields of the config use these names;
`cnn_lab.config.values` checks them wherever a value enters.
"""

import dataclasses
from typing import Annotated


@dataclasses.dataclass(frozen=True)
class Range:
    """The values a number may have: `min` and `max` are among them, `above` and `below` are not."""

    min: int | float | None = None
    above: int | float | None = None
    max: int | float | None = None
    below: int | float | None = None

    def __contains__(self, value: int | float) -> bool:
        return (
            (self.min is None or value >= self.min)
            and (self.above is None or value > self.above)
            and (self.max is None or value <= self.max)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        bounds = {"of at least": self.min, "above": self.above}
        bounds |= {"at most": self.max, "below": self.below}
        return " and ".join(f"{word} {b}" for word, b in bounds.items() if b is not None)


Natural = Annotated[int, Range(min=0)]
Count = Annotated[int, Range(min=1)]
NonNegative = Annotated[float, Range(min=0)]
Positive = Annotated[float, Range(above=0)]
Fraction = Annotated[float, Range(min=0, max=1)]
ProperFraction = Annotated[float, Range(min=0, below=1)]
Share = Annotated[float, Range(above=0, max=1)]
Seed = Annotated[int, Range(min=0, below=2**32)]
