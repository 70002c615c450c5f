"""Numbers in sentences: bytes and large counts in decimal units, and nouns with their number."""

_BYTES = ("B", "kB", "MB", "GB", "TB", "PB")
_COUNTS = ((10**12, " T"), (10**9, " G"), (10**6, " M"), (10**3, " k"))


def human_bytes(count: int | float) -> str:
    """Bytes with three digits, in units as storage is sold: 700,000,000,000 is `700 GB`."""
    unit = 0
    while count >= 999.5 and unit < len(_BYTES) - 1:
        count, unit = count / 1000, unit + 1
    return f"{round(count)} {_BYTES[unit]}" if count >= 99.95 else f"{count:.3g} {_BYTES[unit]}"


def human_count(number: int) -> str:
    """A number with its prefix: 4,089,184,256 is `4.089 G`."""
    for size, prefix in _COUNTS:
        if number >= size:
            return f"{number / size:.3f}{prefix}"
    return str(number)


def counted(number: int, noun: str) -> str:
    """A number and what it counts: `1 epoch`, `2,000 epochs`, `3 classes`."""
    plural = f"{noun}es" if noun.endswith(("s", "batch")) else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
