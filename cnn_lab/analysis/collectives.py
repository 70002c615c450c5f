"""Collectives, the exchanges between devices, of a compiled program, read off its text."""

import dataclasses
import math
import re

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# `%name = f32[8,4]{1,0} all-reduce(...)`; of several arrays at once the type is a tuple, which may
# hold comments with any character in them.
_CALL = re.compile(rf"= (.*?)[ }})]({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_CONTEXT = ("u32", "")  # scalars of an accelerator's own, beside operand and result of a start
_WIDTHS = {"pred": 1, "bf": 2}  # bytes, of types that numpy names otherwise


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of one kind in a program.

    Attributes:
        count: how many there are; those in the body of a loop count once.
        num_bytes: of their results on one device, together.
    """

    count: int = 0
    num_bytes: int = 0


def collectives_in(text: str) -> dict[str, Collective]:
    """The collectives of a compiled program by kind; kinds that it has none of are left out.

    Args:
        text: of the optimized HLO (`compiled.as_text()`).
    """
    found: dict[str, Collective] = {}
    for result, kind, start in _CALL.findall(text):
        arrays = [array for array in _ARRAY.findall(result) if array != _CONTEXT]
        sizes = [_num_bytes(*array) for array in arrays]
        if start and kind != "all-reduce":
            sizes = sizes[len(sizes) // 2 :]  # the operands are part of what a start returns
        before = found.get(kind, Collective())
        found[kind] = Collective(before.count + 1, before.num_bytes + sum(sizes))
    return found


def _num_bytes(dtype: str, shape: str) -> int:
    letters, bits = dtype.rstrip("0123456789"), dtype.lstrip("abcdefghijklmnopqrstuvwxyz")
    width = _WIDTHS.get(letters) or max(1, int(bits or 8) // 8)
    return math.prod(int(size) for size in shape.split(",") if size) * width
