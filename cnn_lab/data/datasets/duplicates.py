"""Finds examples whose decoded pixels are exactly the same, within and across splits.

A test image that is also in the training split makes a score worth less; the same image under two
labels makes one of them wrong.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8

from cnn_lab.data.parallel import Log, ThrottledLog, map_in_order
from cnn_lab.data.source import Source

Duplicate = tuple[str, int, str, int]
"""First split, index in it, second split, index in it."""

_DIGEST_BYTES = 32


@dataclass(frozen=True)
class DuplicateSummary:
    """Numbers of pairs of equal examples within and between splits; pairs whose labels differ."""

    within: Mapping[str, int]
    across: Mapping[tuple[str, str], int]
    disagreeing: tuple[Duplicate, ...]


def find_duplicates(sources: Mapping[str, Source], progress: Log | None = None) -> list[Duplicate]:
    """Pairs of examples that are equal, pixel by pixel.

    Of several equal examples, each later one is paired with the first, in the order of `sources`.
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
    pairs: Sequence[Duplicate], sources: Mapping[str, Source]
) -> DuplicateSummary:
    """Counts pairs by where they are, and picks those whose labels disagree."""
    return DuplicateSummary(
        within=Counter(a for a, _, b, _ in pairs if a == b),
        across=Counter((a, b) for a, _, b, _ in pairs if a != b),
        disagreeing=tuple(pair for pair in pairs if _labels_differ(pair, sources)),
    )


def describe_duplicate(pair: Duplicate, sources: Mapping[str, Source]) -> str:
    """The splits, positions, labels and files of the two examples of a pair, in one line."""
    texts = []
    for split, index in _examples(pair):
        source = sources[split]
        label, path = source.info.class_names[int(source.labels[index])], source.path_of(index)
        texts.append(f"{split} {index} ({label if path is None else f'{label}, {path}'})")
    return " = ".join(texts)


def _examples(pair: Duplicate) -> tuple[tuple[str, int], tuple[str, int]]:
    return pair[:2], pair[2:]


def _labels_differ(pair: Duplicate, sources: Mapping[str, Source]) -> bool:
    split_a, index_a, split_b, index_b = pair
    return bool(sources[split_a].labels[index_a] != sources[split_b].labels[index_b])


def _digests(source: Source) -> Iterator[bytes]:
    """Digests of the images of a split, in order, several joined at a time."""

    def digests_of(indices: Int[np.ndarray, " n"]) -> bytes:
        images: Iterable[UInt8[np.ndarray, "h w c"]]
        if None in source.info.image_shape:
            images = (source[index]["image"] for index in indices)
        else:
            images = source.read(indices)["image"]
        return b"".join(
            hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).digest() for image in images
        )

    return map_in_order(digests_of, source.chunks())
