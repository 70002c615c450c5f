"""The examples of a data set that take part in a training, and those held out for validation."""

import dataclasses

import numpy as np
from jaxtyping import Int, Int32, Int64, Shaped

from cnn_lab.config import DataConfig
from cnn_lab.core.errors import ConfigError, counted
from cnn_lab.data.datasets.catalog import Dataset
from cnn_lab.data.source import Source

_NUM_SWEEPS = 10


@dataclasses.dataclass(frozen=True)
class Subset:
    """Some examples of one split.

    Attributes:
        source: the split, with the image size, channels and classes of the config.
        indices: positions in the split, int64 [n].
    """

    source: Source
    indices: Int64[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labels(self) -> Int32[np.ndarray, " n"]:
        """Labels of these examples."""
        return self.source.labels[self.indices]

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
    all_examples = train = whole_split(dataset.split("train"), data)
    validation = Subset(train.source, train.indices[:0])
    amount = data.num_validation if data.num_validation is not None else data.validation_fraction
    if amount and "validation" in dataset.info.split_sizes:
        validation = _own_validation(whole_split(dataset.split("validation"), data), data)
    elif amount:
        num_held_out = _num_held_out(amount, len(train), dataset.info.name)
        groups = train.source.groups
        training, held_out = stratified_split(
            train.labels,
            num_validation=num_held_out,
            seed=data.split_seed,
            groups=None if groups is None else groups[train.indices],
        )
        train, validation = train.select(training), train.select(held_out)
    if data.num_train is not None and data.num_train > len(train):
        num_held_out = len(all_examples) - len(train)
        aside = f", {num_held_out:,} held out for validation aside" if num_held_out else ""
        raise ConfigError(
            f"config.data.num_train is {data.num_train}, but {dataset.info.name} has only "
            f"{counted(len(train), 'training example')}{aside}; use at most that many."
        )
    if data.num_train is not None and data.num_train < len(train):
        _, chosen = stratified_split(
            train.labels, num_validation=data.num_train, seed=data.split_seed
        )
        train = train.select(chosen)
    return train, validation


def _num_held_out(amount: int | float, num_examples: int, name: str) -> int:
    """Number of examples to hold out, from a number or a fraction; neither all nor none."""
    by_number = isinstance(amount, int)
    num_held_out = amount if by_number else round(amount * num_examples)
    if 1 <= num_held_out < num_examples:
        return num_held_out
    examples = counted(num_examples, "training example")
    if by_number:
        raise ConfigError(
            f"config.data.num_validation is {amount}, but {name} has only {examples} to hold them "
            "out of; hold out fewer, or a share by config.data.validation_fraction."
        )
    raise ConfigError(
        f"config.data.validation_fraction is {amount:g}, which holds out {num_held_out} of the "
        f"{examples} of {name}; hold out at least 1 and leave at least 1 to train on."
    )


def _own_validation(validation: Subset, data: DataConfig) -> Subset:
    """The examples of a data set's own validation split that the config asks for."""
    num_examples = data.num_validation
    if num_examples is None or num_examples == len(validation):
        return validation
    if num_examples > len(validation):
        raise ConfigError(
            f"config.data.num_validation is {num_examples}, but {validation.source.info.name} has "
            f"a validation split of its own with {len(validation)} examples; use at most that "
            "many, or leave it out to use them all."
        )
    # The rest is not used, so groups need not stay together.
    _, chosen = stratified_split(
        validation.labels, num_validation=num_examples, seed=data.split_seed
    )
    return validation.select(chosen)


def stratified_split(
    labels: Int[np.ndarray, " n"],
    *,
    num_validation: int,
    seed: int,
    groups: Shaped[np.ndarray, " m"] | None = None,
) -> tuple[Int64[np.ndarray, " t"], Int64[np.ndarray, " v"]]:
    """Cuts indices into training and validation, each class in the same proportion.

    Without groups the validation split has exactly the size asked for, and every class of two or
    more examples is in both parts as far as that size allows. With groups no group is in both
    parts, and sizes and proportions are met as closely as whole groups allow.

    Args:
        labels: class of every example.
        num_validation: examples to set aside, at least 1.
        seed: the same seed gives the same split.
        groups: of examples that must stay together (a patient, a scene), one value an example.

    Returns:
        Sorted indices of the training and of the validation examples.

    Raises:
        ConfigError: one part would be empty, or the groups cannot be split.
    """
    if not 1 <= num_validation < len(labels):
        raise ConfigError(
            f"{num_validation} validation examples were asked for out of {len(labels)}; ask for "
            "at least 1 and leave at least 1 to train on."
        )
    random = np.random.Generator(np.random.Philox(seed))
    classes, codes = np.unique(labels, return_inverse=True)
    counts = np.bincount(codes, minlength=len(classes))
    quotas = _quotas(counts, num_validation)
    if groups is None:
        chosen = _choose_examples(codes, quotas, random)
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
    """Moves groups greedily while each brings the class counts nearer to the quotas."""
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
