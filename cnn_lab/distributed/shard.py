"""Which part of every batch one of several processes reads."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of `count` equal parts.

    Attributes:
        index: which one, from 0.
        count: how many there are.
    """

    index: int = 0
    count: int = 1

    def of(self, size: int) -> slice:
        """The part of as many rows; `count` divides them."""
        part = size // self.count
        return slice(self.index * part, (self.index + 1) * part)


WHOLE = Shard()
