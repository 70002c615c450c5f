"""Cuts a validation split out of a training split: stratified, seeded, group-aware."""

import numpy as np
from jaxtyping import Int, Int64, Shaped

from cnn_lab.core.errors import ConfigError

_NUM_SWEEPS = 10

Split = tuple[Int64[np.ndarray, " t"], Int64[np.ndarray, " v"]]


def stratified_split(
    labels: Int[np.ndarray, " n"],
    *,
    num_validation: int | None = None,
    fraction: float | None = None,
    seed: int,
    groups: Shaped[np.ndarray, " m"] | None = None,
) -> Split:
    """Cuts indices into training and validation, each class in the same proportion.

    Without groups the validation split has exactly the size asked for, and every class of two or
    more examples is in both parts as far as that size allows. With groups no group is in both
    parts, and sizes and proportions are met as closely as whole groups allow.

    Args:
        labels: class of every example.
        num_validation: examples to set aside, at least 1; or else give `fraction`.
        fraction: share of the examples to set aside, above 0 and below 1.
        seed: the same seed gives the same split.
        groups: what must stay together (a patient, a scene), one value an example.

    Returns:
        Sorted indices of the training and of the validation examples.

    Raises:
        ConfigError: the sizes are impossible.
    """
    total = _num_validation(len(labels), num_validation, fraction)
    random = np.random.Generator(np.random.Philox(seed))
    classes, codes = np.unique(labels, return_inverse=True)
    counts = np.bincount(codes, minlength=len(classes))
    quotas = _quotas(counts, total)
    if groups is None:
        chosen = _choose_examples(codes, quotas, random)
    else:
        chosen = _choose_groups(codes, groups, quotas, random)
    mask = np.zeros(len(labels), bool)
    mask[chosen] = True
    return np.flatnonzero(~mask).astype(np.int64), np.flatnonzero(mask).astype(np.int64)


def _num_validation(num_examples: int, num_validation: int | None, fraction: float | None) -> int:
    if (num_validation is None) == (fraction is None):
        raise ConfigError(
            f"num_validation={num_validation} and fraction={fraction} were given; give exactly one."
        )
    if fraction is not None:
        if not 0.0 < fraction < 1.0:
            raise ConfigError(
                f"A validation fraction of {fraction} was asked for; it must lie between 0 and 1."
            )
        num_validation = round(fraction * num_examples)
    assert num_validation is not None
    if not 1 <= num_validation < num_examples:
        raise ConfigError(
            f"{num_validation} validation examples were asked for out of {num_examples}; ask for "
            "at least 1 and leave at least 1 to train on."
        )
    return num_validation


def _quotas(counts: Int64[np.ndarray, " k"], total: int) -> Int64[np.ndarray, " k"]:
    """Shares `total` among classes by largest remainder, leaving both parts some of each class."""
    exact = counts * (total / counts.sum())
    quotas = np.floor(exact).astype(np.int64)
    by_remainder = np.lexsort((np.arange(len(counts)), quotas - exact))
    quotas[by_remainder[: total - quotas.sum()]] += 1
    # A class takes one example, or gives one back, at the cost of the class that is furthest above
    # or below its exact share; where no class can afford it (more classes than places) it stays.
    for k in np.flatnonzero(counts >= 2):
        if quotas[k] == 0 and (donors := np.flatnonzero(quotas >= 2)).size:
            quotas[donors[np.argmax((quotas - exact)[donors])]] -= 1
            quotas[k] = 1
    for k in np.flatnonzero(quotas == counts):
        takers = np.flatnonzero(quotas < counts - 1)
        if takers.size:
            quotas[takers[np.argmin((quotas - exact)[takers])]] += 1
            quotas[k] -= 1
    return quotas


def _choose_examples(
    codes: Int[np.ndarray, " n"], quotas: Int64[np.ndarray, " k"], random: np.random.Generator
) -> Int64[np.ndarray, " v"]:
    order = random.permutation(len(codes))
    by_class = order[np.argsort(codes[order], kind="stable")]
    starts = np.searchsorted(codes[by_class], np.arange(len(quotas)))
    rank = np.arange(len(codes)) - starts[codes[by_class]]
    return by_class[rank < quotas[codes[by_class]]]


def _choose_groups(
    codes: Int[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " m"],
    quotas: Int64[np.ndarray, " k"],
    random: np.random.Generator,
) -> Int64[np.ndarray, " v"]:
    """Takes groups greedily while each brings the class counts nearer to the quotas."""
    if len(groups) != len(codes):
        raise ConfigError(f"{len(groups)} groups were given for {len(codes)} labels; give as many.")
    names, group_codes = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise ConfigError(
            "All examples belong to one group, so no validation split can be cut without breaking "
            "it; give at least two groups, or none."
        )
    table = np.zeros((len(names), len(quotas)), np.int64)
    np.add.at(table, (group_codes, codes), 1)
    # The total size is a further column that weighs as much as all classes together; without it
    # each class may overshoot a little and the split grows far too large.
    weights = np.append(np.ones(len(quotas)), len(quotas))
    table = np.column_stack([table, table.sum(1)])
    missing = np.append(quotas, quotas.sum())
    # Large groups first: small ones then fill what is left. The permutation breaks ties by seed.
    order = random.permutation(len(names))
    order = order[np.argsort(-table[order, -1], kind="stable")]
    taken = np.zeros(len(names), bool)
    num_left = len(names)
    for _ in range(_NUM_SWEEPS):  # later sweeps mend what the first one took too early
        before = taken.copy()
        for group in order:
            rest = missing + table[group] if taken[group] else missing - table[group]
            nearer = weights @ np.square(rest) < weights @ np.square(missing)
            if nearer and (taken[group] or num_left > 1):
                num_left += 1 if taken[group] else -1
                taken[group] = not taken[group]
                missing = rest
        if (taken == before).all():
            break
    if not taken.any():  # every group is larger than the split asked for: the nearest one must do
        distance = np.square(missing - table[order]) @ weights
        taken[order[np.argmin(distance)]] = True
    return np.flatnonzero(taken[group_codes])
