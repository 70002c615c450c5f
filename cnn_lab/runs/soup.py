"""The mean of several networks' weights as one network (Wortsman et al. 2022, arXiv:2203.05482).

Checkpoints of one run, and fine-tunings of one network, lie close enough for their mean to be good;
runs from different initial weights do not. Statistics of batch normalisation are measured anew on
training images, since those of the members belong to other weights; layers that are the same in
all members, as frozen ones are, keep theirs.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from cnn_lab.config import AverageConfig, ExperimentConfig, OptimConfig
from cnn_lab.config.node import from_dict, to_dict
from cnn_lab.core import trees
from cnn_lab.core.arrays import Tree
from cnn_lab.core.errors import ConfigError
from cnn_lab.data.datasets.catalog import Dataset
from cnn_lab.data.subsets import choose_examples
from cnn_lab.experiment.build import build
from cnn_lab.experiment.experiment import Experiment
from cnn_lab.experiment.restore import RestoredRun
from cnn_lab.train.frozen import part
from cnn_lab.train.recalibration import STATISTICS


@dataclasses.dataclass(frozen=True)
class Soup:
    """A mean of networks.

    Attributes:
        variables: parameters and statistics, by collection.
        num_refit: training batches that the statistics were measured on, 0 where there are none.
        fingerprint: of the data.
    """

    variables: dict[str, Tree]
    num_refit: int
    fingerprint: str


def mean_of(members: Sequence[RestoredRun], names: Sequence[str]) -> Tree:
    """The mean of the members' parameters, taken in float64.

    Args:
        members: at least two networks of one model.
        names: of the members, for messages.

    Raises:
        ConfigError: they are of different models, image shapes, classes or preprocessing.
    """
    if len(members) < 2:
        raise ConfigError(
            f"A soup needs at least two networks; found {len(members)}: give several runs by "
            "--workdir=A,B, or --checkpoint=all of one."
        )
    first = members[0]
    for member, name in zip(members, names, strict=True):
        for what, one, other in (
            ("model", to_dict(first.config.model), to_dict(member.config.model)),
            ("image shape", first.network.image_shape, member.network.image_shape),
            ("class names", first.network.class_names, member.network.class_names),
            ("preprocessing", first.network.preprocess, member.network.preprocess),
        ):
            if one != other:
                raise ConfigError(
                    f"{names[0]} and {name} have different {what}, so their weights have no mean; "
                    "take runs of one experiment."
                )

    def mean(*leaves: Any) -> Any:
        total = np.sum([np.asarray(leaf, np.float64) for leaf in leaves], axis=0)
        return (total / len(leaves)).astype(leaves[0].dtype)

    return jax.tree.map(mean, *(member.variables["params"] for member in members))


def cook(
    members: Sequence[RestoredRun],
    names: Sequence[str],
    fingerprints: Sequence[str | None],
    open_data: Callable[..., Dataset],
) -> Soup:
    """The mean of the members, with statistics that fit it.

    Args:
        members: as for `mean_of`; the data of the first one's config are looked at.
        names: of the members.
        fingerprints: of the data that each was trained on, None where that is not known.
        open_data: as of `build`.

    Raises:
        ConfigError: as of `mean_of`, or they learned from other data or held out other examples.
    """
    mean = {**members[0].variables, "params": mean_of(members, names)}
    data = members[0].config.data
    dataset = open_data(data.name, data.data_dir)
    _check_held_out(members, names, fingerprints, dataset)
    experiment = _experiment(members[0].config, lambda *_: dataset)
    try:
        recalibration = experiment.recalibration()
        alike = _alike([member.variables["params"] for member in members])
        changing, frozen = part(mean, lambda path: path not in alike)
        if recalibration is None or STATISTICS not in changing:
            return Soup(mean, 0, experiment.fingerprint)
        parts = {"params": changing.pop("params"), "collections": changing, "frozen": frozen}
        measured = jax.device_get(recalibration(experiment.mesh.put_replicated(parts)))
        variables = trees.merge(mean, {STATISTICS: measured})
        return Soup(variables, recalibration.num_steps, experiment.fingerprint)
    finally:
        for loader in experiment.loaders():
            loader.close()


def _alike(params: Sequence[Tree]) -> set[str]:
    """Paths of what all members have the same bits of, as they do of what was frozen."""
    first, *others = map(trees.flatten, params)
    return {
        path
        for path, leaf in first.items()
        if all(np.array_equal(leaf, other[path]) for other in others)
    }


def _check_held_out(
    members: Sequence[RestoredRun],
    names: Sequence[str],
    fingerprints: Sequence[str | None],
    dataset: Dataset,
) -> None:
    """Refuses members of which one may have learned from what another one held out."""
    wanted = fingerprints[0] or dataset.info.fingerprint
    if wanted != dataset.info.fingerprint:
        raise ConfigError(
            f"The data of {members[0].config.data.name} changed since {names[0]} was trained; "
            "bring the old data back."
        )
    first = choose_examples(dataset, members[0].config.data)[1]
    for member, name, fingerprint in zip(members, names, fingerprints, strict=True):
        if fingerprint not in (None, wanted):
            raise ConfigError(
                f"{names[0]} and {name} were trained on different data, so that what one held out "
                "the other may have learned from; take runs on the same."
            )
        held_out = choose_examples(dataset, member.config.data)[1]
        if not np.array_equal(held_out.indices, first.indices):
            raise ConfigError(
                f"{names[0]} and {name} held out different validation examples "
                "(config.data.split_seed, num_validation, validation_fraction), so that their mean "
                "would have learned from some of them; take runs that held out the same."
            )


def _experiment(config: ExperimentConfig, open_data: Callable[..., Dataset]) -> Experiment:
    """One whose loaders serve to measure statistics; its optimizer is never used."""
    config = from_dict(ExperimentConfig, to_dict(config))
    config.average, config.optim = AverageConfig(kind="swa"), OptimConfig(name="sgd")
    config.transfer = None
    return build(config, open_data)
