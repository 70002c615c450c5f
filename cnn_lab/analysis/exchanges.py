"""What devices exchange in a compiled program, read off its text."""

import dataclasses
import math
import re

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# `%name = f32[8,4]{1,0} all-reduce(...)`; of several arrays at once the type is a tuple, which may
# hold comments with any sign in them.
_CALL = re.compile(rf"= (.*?)[ }})]({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_CONTEXT = ("u32", "")  # scalars of an accelerator's own, beside operand and result of a start
_WIDTHS = {"pred": 1, "bf": 2}  # bytes, of types that numpy names otherwise


@dataclasses.dataclass(frozen=True)
class Exchange:
    """All exchanges of one kind.

    Attributes:
        count: how many there are; those in the body of a loop count once.
        num_bytes: of their results on one device, together.
    """

    count: int = 0
    num_bytes: int = 0


def exchanges_in(text: str) -> dict[str, Exchange]:
    """The exchanges of a compiled program by kind, those that it has none of left out.

    Args:
        text: of the optimized HLO (`compiled.as_text()`).
    """
    found: dict[str, Exchange] = {}
    for result, kind, start in _CALL.findall(text):
        arrays = [array for array in _ARRAY.findall(result) if array != _CONTEXT]
        sizes = [_num_bytes(*array) for array in arrays]
        if start and kind != "all-reduce":
            sizes = sizes[len(sizes) // 2 :]  # the operands are part of what a start returns
        before = found.get(kind, Exchange())
        found[kind] = Exchange(before.count + 1, before.num_bytes + sum(sizes))
    return found


def _num_bytes(dtype: str, shape: str) -> int:
    letters, bits = dtype.rstrip("0123456789"), dtype.lstrip("abcdefghijklmnopqrstuvwxyz")
    width = _WIDTHS.get(letters) or max(1, int(bits or 8) // 8)
    return math.prod(int(size) for size in shape.split(",") if size) * width
