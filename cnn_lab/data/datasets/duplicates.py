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

from cnn_lab.data.parallel import Log, ThrottledLog, map_in_order
from cnn_lab.data.source import Source

Duplicate = tuple[str, int, str, int]
"""First split, index in it, second split, index in it."""

_DIGEST_BYTES = 32


@dataclass(frozen=True)
class DuplicateSummary:
    """Numbers of pairs of equal examples.

    Attributes:
        within: split to number of pairs inside it.
        across: two splits to number of pairs between them.
        disagreeing: the pairs, of either kind, whose labels differ.
    """

    within: Mapping[str, int]
    across: Mapping[tuple[str, str], int]
    disagreeing: tuple[Duplicate, ...]


def find_duplicates(sources: Mapping[str, Source], progress: Log | None = None) -> list[Duplicate]:
    """Finds the examples that equal an earlier one, pixel by pixel.

    Of several equal examples, each later one is paired with the first, in the order of `sources`.

    Args:
        sources: split name to source.
        progress: receives lines about how many images were looked at.

    Returns:
        The pairs: first example, then the later one.
    """
    names, sizes = list(sources), [len(source) for source in sources.values()]
    digests = bytearray()
    log_progress = ThrottledLog(progress)
    for source in sources.values():
        for part in _digests(source):
            digests += part
            log_progress(f"looked at {len(digests) // _DIGEST_BYTES:,} of {sum(sizes):,} images")
    # Sorted as numbers: a dict of a million digests would take ten times the memory.
    rows = np.frombuffer(digests, np.uint64).reshape(-1, _DIGEST_BYTES // 8)
    order = np.lexsort(rows.T)  # equal digests stay in the order of their examples
    equal = np.append(False, (rows[order[1:]] == rows[order[:-1]]).all(1))
    firsts = order[np.maximum.accumulate(np.where(equal, 0, np.arange(len(order))))]
    later = np.flatnonzero(equal)
    later = later[np.argsort(order[later])]
    starts = np.append(0, np.cumsum(sizes))

    def split_and_index(position: int) -> tuple[str, int]:
        split = int(np.searchsorted(starts, position, "right")) - 1
        return names[split], position - int(starts[split])

    pairs = zip(firsts[later].tolist(), order[later].tolist(), strict=True)
    return [(*split_and_index(first), *split_and_index(second)) for first, second in pairs]


def summarise_duplicates(
    pairs: Iterable[Duplicate], sources: Mapping[str, Source]
) -> DuplicateSummary:
    """Counts pairs by where they are, and picks those whose labels disagree.

    Args:
        pairs: as `find_duplicates` returned them.
        sources: the same as for `find_duplicates`.
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


def describe_duplicate(pair: Duplicate, sources: Mapping[str, Source]) -> str:
    """The splits, positions, labels and files of the two examples of a pair, in one line.

    Args:
        pair: one that `find_duplicates` returned.
        sources: the same as for `find_duplicates`.
    """
    split_a, index_a, split_b, index_b = pair
    first = _describe(split_a, index_a, sources[split_a])
    return f"{first} = {_describe(split_b, index_b, sources[split_b])}"


def _describe(split: str, index: int, source: Source) -> str:
    label = source.info.class_names[int(source.labels[index])]
    path = source.path_of(index)
    return f"{split} {index} ({label})" if path is None else f"{split} {index} ({label}, {path})"


def _digests(source: Source) -> Iterator[bytes]:
    """Digests of the images of a split, in order, several joined at a time."""
    if None in source.info.image_shape:
        read = lambda indices: [source[index]["image"] for index in indices]  # noqa: E731
    else:
        read = lambda indices: source.read(indices)["image"]  # noqa: E731
    return map_in_order(lambda indices: _joined_digests(read(indices)), source.chunks())


def _joined_digests(images: Iterable[UInt8[np.ndarray, "_ _ _"]]) -> bytes:
    return b"".join(
        hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).digest() for image in images
    )
