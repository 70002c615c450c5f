"""Finds examples whose decoded pixels are exactly the same, within and across splits.

A test image that is also in the training split makes a score worth less; the same image under two
labels makes one of them wrong.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from cnn_lab.data.parallel import map_in_order
from cnn_lab.data.progress import Progress, Ticker
from cnn_lab.data.source import Source

Duplicate = tuple[str, int, str, int]
"""First split, index in it, second split, index in it."""

_DIGEST_BYTES = 32


@dataclass(frozen=True)
class DuplicateSummary:
    """How many pairs of equal examples there are.

    Attributes:
        within: split to number of pairs inside it.
        across: two splits to number of pairs between them.
        disagreeing: the pairs, of either kind, whose labels differ.
    """

    within: Mapping[str, int]
    across: Mapping[tuple[str, str], int]
    disagreeing: tuple[Duplicate, ...]


@dataclass(frozen=True)
class Example:
    """One example in words; `file` is None where the data set does not say."""

    split: str
    index: int
    label: str
    file: str | None

    def __str__(self) -> str:
        file = "" if self.file is None else f", {self.file}"
        return f"{self.split} {self.index} ({self.label}{file})"


@dataclass(frozen=True)
class DescribedDuplicate:
    """Two equal examples, the first one and a later one."""

    first: Example
    second: Example

    def __str__(self) -> str:
        return f"{self.first} = {self.second}"


def find_duplicates(
    sources: Mapping[str, Source], progress: Progress | None = None
) -> list[Duplicate]:
    """Finds the examples that equal an earlier one, pixel by pixel.

    Of several equal examples, each later one is paired with the first, in the order of `sources`.

    Args:
        sources: split name to source.
        progress: told how many images were looked at.

    Returns:
        The pairs: first example, then the later one.
    """
    names, sizes = list(sources), [len(source) for source in sources.values()]
    digests = bytearray()
    tick = Ticker(progress)
    for source in sources.values():
        for part in _digests(source):
            digests += part
            tick(f"looked at {len(digests) // _DIGEST_BYTES:,} of {sum(sizes):,} images")
    # Sorted as numbers: a dict of a million digests would take ten times the memory.
    rows = np.frombuffer(digests, np.uint64).reshape(-1, _DIGEST_BYTES // 8)
    order = np.lexsort(rows.T)  # equal digests stay in the order of their examples
    equal = np.append(False, (rows[order[1:]] == rows[order[:-1]]).all(1))
    firsts = order[np.maximum.accumulate(np.where(equal, 0, np.arange(len(order))))]
    later = np.flatnonzero(equal)
    later = later[np.argsort(order[later])]
    starts = np.append(0, np.cumsum(sizes))

    def place(position: int) -> tuple[str, int]:
        split = int(np.searchsorted(starts, position, "right")) - 1
        return names[split], position - int(starts[split])

    pairs = zip(firsts[later].tolist(), order[later].tolist(), strict=True)
    return [(*place(first), *place(second)) for first, second in pairs]


def summarise_duplicates(
    pairs: Iterable[Duplicate], sources: Mapping[str, Source]
) -> DuplicateSummary:
    """Counts pairs by where they are, and picks those whose labels disagree.

    Args:
        pairs: what `find_duplicates` gave.
        sources: the sources it was given.
    """
    within: dict[str, int] = defaultdict(int)
    across: dict[tuple[str, str], int] = defaultdict(int)
    disagreeing = []
    for pair in pairs:
        split_a, index_a, split_b, index_b = pair
        if split_a == split_b:
            within[split_a] += 1
        else:
            across[split_a, split_b] += 1
        if sources[split_a].labels[index_a] != sources[split_b].labels[index_b]:
            disagreeing.append(pair)
    return DuplicateSummary(dict(within), dict(across), tuple(disagreeing))


def describe_duplicate(pair: Duplicate, sources: Mapping[str, Source]) -> DescribedDuplicate:
    """Says what the two examples of a pair are; reads both records.

    Args:
        pair: one of what `find_duplicates` gave.
        sources: the sources it was given.
    """
    split_a, index_a, split_b, index_b = pair
    return DescribedDuplicate(
        _describe(split_a, index_a, sources[split_a]), _describe(split_b, index_b, sources[split_b])
    )


def _describe(split: str, index: int, source: Source) -> Example:
    label = source.info.class_names[int(source.labels[index])]
    return Example(split, index, label, source.path_of(index))


def _digests(source: Source) -> Iterator[bytes]:
    """Digests of the images of a split, in order, several joined at a time."""
    if None in source.info.image_shape:
        read = lambda indices: [source[index]["image"] for index in indices]  # noqa: E731
    else:
        read = lambda indices: source.gather(indices)["image"]  # noqa: E731
    return map_in_order(lambda indices: _joined_digests(read(indices)), source.chunks())


def _joined_digests(images: Iterable[UInt8[np.ndarray, "_ _ _"]]) -> bytes:
    return b"".join(
        hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).digest() for image in images
    )
