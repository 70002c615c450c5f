"""The mean of several networks' weights as one network (Wortsman et al. 2022, arXiv:2203.05482).

Checkpoints of one run, and fine-tunings of one network, lie close enough for their mean to be good;
runs from different initial weights do not. Statistics of batch normalisation are measured anew on
training images, since those of the members belong to other weights; layers that are the same in
all members, as frozen ones are, keep theirs.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnn_lab.config import AverageConfig, ExperimentConfig, OptimConfig
from cnn_lab.config.node import from_dict, to_dict
from cnn_lab.core import trees
from cnn_lab.core.arrays import Tree
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.text import counted
from cnn_lab.data.datasets.catalog import Dataset, open_dataset
from cnn_lab.data.subsets import choose_examples
from cnn_lab.experiment.build import build_experiment
from cnn_lab.experiment.initialization import digest_of
from cnn_lab.experiment.restore import RestoredRun, checkpoint_steps, restore_run
from cnn_lab.runs.import_weights import require_new, write_run
from cnn_lab.training.frozen import partition_frozen
from cnn_lab.training.recalibration import STATISTICS
from cnn_lab.workdir.run_dir import lineage_in, read_record


@dataclasses.dataclass(frozen=True)
class Soup:
    """The mean of several networks.

    Its statistics were measured on `num_batches` training batches, 0 where it has none.
    """

    variables: dict[str, Tree]
    num_batches: int
    fingerprint: str


def make_soup(
    workdirs: Sequence[Path], checkpoints: Sequence[str], out: Path, log: Callable[[str], None]
) -> None:
    """Writes the mean of several networks as an ordinary run, in a folder that is empty or new.

    Checkpoints of each run are steps, `best` or `latest`; `all` alone are those of a single run.

    Raises:
        CnnLabError: fewer than two networks, or networks that have no mean.
    """
    require_new(out)
    given = ",".join(checkpoints)
    if given == "all":
        checkpoints = [str(step) for step in checkpoint_steps(workdirs[0])]
    # Two names, such as best and latest, may be of one checkpoint.
    found: dict[tuple[Path, int], RestoredRun] = {}
    for workdir in workdirs:
        for checkpoint in checkpoints:
            member = restore_run(workdir, checkpoint)
            found.setdefault((workdir, member.step), member)
    names = [f"{workdir}, checkpoint {step}" for workdir, step in found]
    if len(names) == 1 and len(checkpoints) > 1:
        problem = (
            f"A soup needs at least two networks; --checkpoint={given} of {workdirs[0]} is step "
            f"{next(iter(found))[1]} alone."
        )
        raise ConfigError(problem, where="--checkpoint", found=given)
    members, records = list(found.values()), [read_record(workdir) for workdir, _ in found]
    fingerprints = [record.get("fingerprint") for record in records]
    soup = average_runs(members, names, fingerprints, functools.partial(open_dataset, progress=log))
    write_run(
        out,
        members[0].config,
        members[0].network,
        soup.variables,
        "averaged",
        averaged_from=names,
        members=[
            {
                "name": name,
                "digest": digest_of(jax.tree.map(np.asarray, member.variables)),
                "lineage": lineage_in(record),
            }
            for name, member, record in zip(names, members, records, strict=True)
        ],
        fingerprint=soup.fingerprint,
    )
    log(f"The mean of {counted(len(members), 'network')}:")
    for name in names:
        log(f"  {name}")
    if soup.num_batches:
        log(f"Statistics measured on {counted(soup.num_batches, 'training batch')}.")


def mean_params(members: Sequence[RestoredRun], names: Sequence[str]) -> Tree:
    """The mean of the parameters of at least two networks of one kind, taken in float64."""
    if len(members) < 2:
        problem = (
            f"A soup needs at least two networks; found {len(members)}: give several runs by "
            "--workdir=A,B, or --checkpoint=all of one."
        )
        raise ConfigError(problem, where="--workdir", found=list(names))
    first = members[0]
    for member, name in zip(members, names, strict=True):
        for what, one, other in (
            ("model", to_dict(first.config.model), to_dict(member.config.model)),
            ("image shape", first.network.image_shape, member.network.image_shape),
            ("class names", first.network.class_names, member.network.class_names),
            ("preprocessing", first.network.preprocess, member.network.preprocess),
        ):
            if one != other:
                problem = (
                    f"{names[0]} and {name} have different {what}, so their weights have no mean; "
                    "take runs of one experiment."
                )
                raise ConfigError(problem, where="--workdir", found=other)

    def mean(*leaves: Any) -> Any:
        total = np.sum([np.asarray(leaf, np.float64) for leaf in leaves], axis=0)
        return (total / len(leaves)).astype(leaves[0].dtype)

    return jax.tree.map(mean, *(member.variables["params"] for member in members))


def average_runs(
    members: Sequence[RestoredRun],
    names: Sequence[str],
    fingerprints: Sequence[str | None],
    open_data: Callable[..., Dataset],
) -> Soup:
    """The mean of the members, with statistics that are measured on the data of the first one.

    Fingerprints are those of the data that each was trained on, None where that is not known.

    Raises:
        ConfigError: members that have no mean, learned from other data, or held out other examples.
    """
    mean = {**members[0].variables, "params": mean_params(members, names)}
    # An experiment whose loaders serve to measure statistics; its optimizer is never used.
    config = from_dict(ExperimentConfig, to_dict(members[0].config))
    config.average, config.optim = AverageConfig(kind="swa"), OptimConfig(name="sgd")
    config.transfer = None
    dataset = open_data(config.data.name, config.data.data_dir)
    _check_held_out(members, names, fingerprints, dataset)
    experiment = build_experiment(config, lambda *_: dataset)
    try:
        recalibration = experiment.recalibration()
        first, *others = (trees.flatten(member.variables["params"]) for member in members)
        # The same bits in all members, as frozen parameters are.
        unchanged = {
            path
            for path, leaf in first.items()
            if all(np.array_equal(leaf, other[path]) for other in others)
        }
        changing, frozen = partition_frozen(mean, lambda path: path not in unchanged)
        if recalibration is None or STATISTICS not in changing:
            return Soup(mean, 0, experiment.fingerprint)
        parts = {"params": changing.pop("params"), "collections": changing, "frozen": frozen}
        measured = jax.device_get(recalibration(experiment.mesh.put(parts)))
        variables = trees.merge(mean, {STATISTICS: measured})
        return Soup(variables, recalibration.num_steps, experiment.fingerprint)
    finally:
        for loader in experiment.loaders():
            loader.close()


def _check_held_out(
    members: Sequence[RestoredRun],
    names: Sequence[str],
    fingerprints: Sequence[str | None],
    dataset: Dataset,
) -> None:
    """Raises a `ConfigError` if a member may have learned from what another one held out."""
    wanted = fingerprints[0] or dataset.info.fingerprint
    if wanted != dataset.info.fingerprint:
        problem = (
            f"The data of {members[0].config.data.name} changed since {names[0]} was trained; "
            "bring the old data back."
        )
        raise ConfigError(problem, where="config.data.name", found=members[0].config.data.name)
    first = choose_examples(dataset, members[0].config.data)[1]
    for member, name, fingerprint in zip(members, names, fingerprints, strict=True):
        if fingerprint not in (None, wanted):
            problem = (
                f"{names[0]} and {name} were trained on different data, so that what one held out "
                "the other may have learned from; take runs on the same."
            )
            raise ConfigError(problem, where="--workdir", found=name)
        held_out = choose_examples(dataset, member.config.data)[1]
        if not np.array_equal(held_out.indices, first.indices):
            problem = (
                f"{names[0]} and {name} held out different validation examples "
                "(config.data.split_seed, num_validation, validation_fraction), so that their mean "
                "would have learned from some of them; take runs that held out the same."
            )
            raise ConfigError(problem, where="config.data", found=name)
