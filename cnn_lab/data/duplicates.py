"""Finds examples whose decoded pixels are exactly the same, within and across splits.

A test image that is also in the training split makes a score worth less; the same image under two
labels makes one of them wrong.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from cnn_lab.data.source import Source

Duplicate = tuple[str, int, str, int]
"""First split, index in it, second split, index in it."""

_READ_AT_ONCE = 4096


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


def find_duplicates(sources: Mapping[str, Source]) -> list[Duplicate]:
    """Finds the examples that equal an earlier one, pixel by pixel.

    Of several equal examples, each later one is paired with the first, in the order of `sources`.

    Args:
        sources: split name to source.

    Returns:
        The pairs: first example, then the later one.
    """
    first: dict[bytes, tuple[str, int]] = {}
    pairs = []
    for split, source in sources.items():
        for index, digest in enumerate(_digests(source)):
            earlier = first.setdefault(digest, (split, index))
            if earlier != (split, index):
                pairs.append((*earlier, split, index))
    return pairs


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


def _digests(source: Source) -> Iterable[bytes]:
    if None in source.info.image_shape:
        for index in range(len(source)):
            image = source[index]["image"]
            yield hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).digest()
        return
    for start in range(0, len(source), _READ_AT_ONCE):
        indices = np.arange(start, min(start + _READ_AT_ONCE, len(source)))
        yield from _row_digests(source.gather(indices)["image"])


def _row_digests(images: UInt8[np.ndarray, "n h w c"]) -> Iterable[bytes]:
    header = f"{images.shape[1:]}".encode()
    rows = np.ascontiguousarray(images).reshape(len(images), -1)
    for row in rows:
        yield hashlib.sha256(header + row.data).digest()
