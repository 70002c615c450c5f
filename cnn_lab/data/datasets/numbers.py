"""Numbers that are to be predicted, in float32, as they are stored."""

import numpy as np
from jaxtyping import Float, Float32

from cnn_lab.core.errors import DataError
from cnn_lab.core.text import counted

# In deviations of the numbers: closer ones may become equal, as of any real numbers.
_RESOLUTION = 1e-5


def as_float32(
    subject: str, values: Float[np.ndarray, "n d"], where: str | None = None
) -> Float32[np.ndarray, "n d"]:
    """The numbers in float32.

    Args:
        subject: the noun for the numbers, in messages.
        values: as they were given.
        where: the file that they are in; by default an error is about `subject`.

    Raises:
        DataError: a number that is not finite in float32, or different numbers that
            are the same there, although they lie apart beside the deviation of all.
    """
    with np.errstate(over="ignore"):  # refused below
        numbers = values.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(numbers).all(axis=1))
    if len(bad):
        raise DataError(
            f"{subject} must be finite; found {counted(len(bad), 'example')} with NaN, infinity "
            f"or a number too large for float32, the first at {bad[0]}.",
            where=where or subject,
            found=int(bad[0]),
            allowed="finite numbers",
        )
    for column in values.T if values.dtype != np.float32 else ():
        distinct = np.unique(column)
        stored, first = np.unique(distinct.astype(np.float32), return_index=True)
        if len(stored) == len(distinct):
            continue
        last = np.append(first[1:], len(distinct)) - 1
        widest = int(np.argmax(distinct[last] - distinct[first]))
        low, high = float(distinct[first[widest]]), float(distinct[last[widest]])
        if high - low > _RESOLUTION * column.std():
            raise DataError(
                f"{subject} hold {low!r} and {high!r}, which float32 cannot tell apart; subtract "
                "an offset that all of them share, or scale them.",
                where=where or subject,
                found=(low, high),
                allowed="numbers that differ in float32",
            )
    return numbers
