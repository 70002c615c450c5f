"""The examples of a data set that take part in a training, and those held out for validation."""

import dataclasses

import numpy as np
from jaxtyping import Int, Int32, Int64, Shaped

from cnn_lab.config import DataConfig
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.text import counted
from cnn_lab.data.datasets.catalog import Dataset
from cnn_lab.data.source import Labels, Source

_NUM_SWEEPS = 10


@dataclasses.dataclass(frozen=True)
class Subset:
    """Examples at `indices` of a split, with the image size, channels and classes of the config."""

    source: Source
    indices: Int64[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labels(self) -> Labels:
        """Labels of these examples."""
        return self.source.labels[self.indices]

    @property
    def strata(self) -> Int32[np.ndarray, " n"]:
        """Kinds of which every slice of these examples has its share: classes, where there are."""
        if self.source.info.target.kind == "class":
            return self.labels
        return np.zeros(len(self), np.int32)

    def select(self, places: Int64[np.ndarray, " m"]) -> "Subset":
        """Some of these examples, by their places among them."""
        return Subset(self.source, self.indices[places])


def whole_split(source: Source, data: DataConfig) -> Subset:
    """All examples of a split, in the form that the config asks for."""
    if data.channels is not None:
        source = source.with_channels(data.channels)
    if data.image_size is not None:
        source = source.with_image_size(data.image_size)
    if data.classes is None:
        return Subset(source, np.arange(len(source), dtype=np.int64))
    source = source.with_classes(data.classes)
    return Subset(source, np.flatnonzero(source.labels >= 0))


def choose_examples(dataset: Dataset, data: DataConfig) -> tuple[Subset, Subset]:
    """The training examples, and the validation examples (none when nothing is held out).

    A data set's own validation split is used where there is one, as a whole or, where
    `num_validation` is set, a stratified, seeded slice of it; `validation_fraction` is a share of
    train and does not apply to it, except that 0 holds nothing out. Elsewhere the validation
    examples are a stratified, seeded, group-aware slice of train.

    Raises:
        ConfigError: there are fewer examples than were asked for.
    """
    train = whole_split(dataset.split("train"), data)
    validation = Subset(train.source, train.indices[:0])
    amount = data.num_validation if data.num_validation is not None else data.validation_fraction
    if amount and "validation" in dataset.info.split_sizes:
        whole = whole_split(dataset.split("validation"), data)
        at_most = f"at most {len(whole):,}, all examples of the data's own validation split"
        validation = _at_most(whole, "num_validation", data.num_validation, data, at_most)
    elif amount:
        num_held_out = amount if isinstance(amount, int) else round(amount * len(train))
        if not 1 <= num_held_out < len(train):
            field = "num_validation"
            advice = "or leave it out for a share by config.data.validation_fraction"
            if not isinstance(amount, int):
                field = "validation_fraction"
                advice = "or give a number by config.data.num_validation"
            raise ConfigError(
                where=f"config.data.{field}",
                found=amount,
                allowed=f"such that at least 1 of the {counted(len(train), 'training example')} of "
                f"{dataset.info.name} is held out, and at least 1 left to train on",
                advice=advice,
            )
        groups = train.source.groups
        training, held_out = stratified_split(
            train.strata,
            num_validation=num_held_out,
            seed=data.split_seed,
            groups=None if groups is None else groups[train.indices],
        )
        train, validation = train.select(training), train.select(held_out)
    at_most = f"at most {len(train):,}, the training examples of {dataset.info.name}"
    if validation.source is train.source and len(validation):
        at_most += f" without the {len(validation):,} held out for validation"
    return _at_most(train, "num_train", data.num_train, data, at_most), validation


def _at_most(
    subset: Subset, field: str, number: int | None, data: DataConfig, allowed: str
) -> Subset:
    """That many of the examples, each class in proportion; all where the number is None."""
    if number is None or number == len(subset):
        return subset
    if number > len(subset):
        advice = "leave it out to use them all"
        raise ConfigError(
            where=f"config.data.{field}", found=number, allowed=allowed, advice=advice
        )
    # The rest is not used, so groups need not stay together.
    _, chosen = stratified_split(subset.strata, num_validation=number, seed=data.split_seed)
    return subset.select(chosen)


def stratified_split(
    labels: Int[np.ndarray, " n"],
    *,
    num_validation: int,
    seed: int,
    groups: Shaped[np.ndarray, " m"] | None = None,
) -> tuple[Int64[np.ndarray, " t"], Int64[np.ndarray, " v"]]:
    """Sorted indices of training and of validation examples, each class in the same proportion.

    Without groups the validation split has exactly the size asked for, and every class of two or
    more examples is in both parts as far as that size allows. With groups no group is in both
    parts, and sizes and proportions are met as closely as whole groups allow.

    Args:
        labels: class of every example.
        num_validation: examples to set aside.
        seed: the same seed gives the same split.
        groups: of examples that must stay together (a patient, a scene), one value an example.

    Raises:
        ConfigError: one part would be empty, or the groups cannot be split.
    """
    if not 1 <= num_validation < len(labels):
        allowed = f"at least 1 and below {len(labels)}, so that some examples are left to train on"
        raise ConfigError(where="num_validation", found=num_validation, allowed=allowed)
    random = np.random.Generator(np.random.Philox(seed))
    classes, codes = np.unique(labels, return_inverse=True)
    counts = np.bincount(codes, minlength=len(classes))
    quotas = _quotas(counts, num_validation)
    if groups is None:
        order = random.permutation(len(codes))
        by_class = order[np.argsort(codes[order], kind="stable")]
        rank = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
        chosen = by_class[rank < quotas[codes[by_class]]]
    else:
        chosen = _choose_groups(codes, groups, quotas, random)
    mask = np.zeros(len(labels), bool)
    mask[chosen] = True
    return np.flatnonzero(~mask).astype(np.int64), np.flatnonzero(mask).astype(np.int64)


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
        receivers = np.flatnonzero(quotas < counts - 1)
        if receivers.size:
            quotas[receivers[np.argmin((quotas - exact)[receivers])]] += 1
            quotas[k] -= 1
    return quotas


def _choose_groups(
    codes: Int[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " m"],
    quotas: Int64[np.ndarray, " k"],
    random: np.random.Generator,
) -> Int64[np.ndarray, " v"]:
    """Moves groups greedily while each brings the class counts nearer to the quotas."""
    if len(groups) != len(codes):
        raise ConfigError(where="The number of groups", found=len(groups), allowed=str(len(codes)))
    names, group_codes = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        allowed = "at least 2, for a validation split to be cut without breaking one, or none"
        raise ConfigError(where="The number of groups", found=len(names), allowed=allowed)
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
    chosen = np.zeros(len(names), bool)
    num_left = len(names)
    for _ in range(_NUM_SWEEPS):  # later sweeps undo what the first one chose too early
        before = chosen.copy()
        for group in order:
            rest = missing + table[group] if chosen[group] else missing - table[group]
            nearer = weights @ np.square(rest) < weights @ np.square(missing)
            if nearer and (chosen[group] or num_left > 1):
                num_left += 1 if chosen[group] else -1
                chosen[group] = not chosen[group]
                missing = rest
        if (chosen == before).all():
            break
    if not chosen.any():  # every group is larger than the split asked for: the nearest one must do
        distance = np.square(missing - table[order]) @ weights
        chosen[order[np.argmin(distance)]] = True
    return np.flatnonzero(chosen[group_codes])
