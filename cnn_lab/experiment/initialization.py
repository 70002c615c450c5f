"""Initialisation from pretrained weights: those of another run, and how fast each is trained."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from cnn_lab.config import ExperimentConfig, TransferConfig
from cnn_lab.config.node import from_dict, to_dict
from cnn_lab.core import trees
from cnn_lab.core.arrays import Tree
from cnn_lab.core.errors import CnnLabError, ConfigError, WorkdirError
from cnn_lab.distributed.processes import SINGLE_PROCESS, Processes
from cnn_lab.experiment.restore import restore_network, restore_run
from cnn_lab.layers.initialize import trace_module
from cnn_lab.optim.assemble import LrMultiplier
from cnn_lab.transfer.plan import Plan, make_plan, stages_of
from cnn_lab.transfer.surgery import Pretrained, adapt_pretrained
from cnn_lab.workdir.run_dir import lineage_in, read_record

SOURCE, CHECKPOINT = "config.transfer.source", "config.transfer.checkpoint"


@dataclasses.dataclass(frozen=True)
class Initialization:
    """Weights that a training starts from, and the plan of what is trained of them.

    Attributes:
        plan: which parameters are trained, how fast and from when.
        pretrained: weights of the source, as far as this network has a place for them.
        anchor: parameters that the penalty `l2_sp` pulls towards; empty without it.
        lineage: the source and the plan as JSON values, for the run's record.
    """

    plan: Plan
    pretrained: Pretrained
    anchor: Tree
    lineage: dict[str, Any]

    def trainable(self, epoch: int) -> Callable[[str], bool]:
        """Whether a parameter is trained in an epoch, by its path."""
        return {path for group in self.plan.trained(epoch) for path in group.paths}.__contains__

    def describe(self, params: Tree, learning_rate: float) -> list[str]:
        """Lines for the user: the source, and a table of the plan at the peak learning rate."""
        sizes = {path: math.prod(leaf.shape) for path, leaf in trees.flatten(params).items()}
        source = f"Weights of {self.lineage['source']}, step {self.lineage['checkpoint']}"
        notes = [f"  {note}" for note in self.pretrained.notes]
        first = f"{source}, {self.lineage['digest'][:12]}."
        return [first, *notes, *self.plan.table(sizes, learning_rate)]

    def lr_multipliers(self, epoch: int, steps_per_epoch: int) -> Mapping[str, LrMultiplier] | None:
        """Learning-rate multiplier of every parameter that is trained in an epoch, by its path.

        None where all that are ever trained are so at the learning rate itself, from the start.
        """
        if {(g.rate, g.first_epoch) for g in self.plan.groups if g.rate} == {(1, 0)}:
            return None
        return {
            path: LrMultiplier(group.rate, group.first_epoch * steps_per_epoch)
            for group in self.plan.trained(epoch)
            for path in group.paths
        }


def source_folder(transfer: TransferConfig) -> Path:
    """The folder of the run that a config names as its source; a `ConfigError` if it names none."""
    if not transfer.source:
        problem = (
            "config.transfer has no source; set config.transfer.source to the folder of a run, "
            "such as runs/resnet18."
        )
        raise ConfigError(problem, where=SOURCE, found=transfer.source)
    return Path(transfer.source).expanduser().resolve()


def complete_config(config: ExperimentConfig) -> ExperimentConfig:
    """The config with the fields that follow from its source, where they are not set.

    These are the size, the padding, the channels and the normalisation of the images; the source's
    folder becomes an absolute path.

    Raises:
        CnnLabError: no source, one of another model, no run there, or no such checkpoint.
    """
    if config.transfer is None:
        return config
    place = source_folder(config.transfer)
    config = from_dict(ExperimentConfig, to_dict(config))
    assert config.transfer is not None
    config.transfer.source, data = str(place), config.data
    if None not in (data.image_size, data.channels, data.mean, data.std):
        return config
    source_config, network = restore_network(place, config.transfer.checkpoint, CHECKPOINT)
    _check_model(config, source_config)
    height, width, channels = network.image_shape
    if config.data.image_size is None:
        config.data.image_size = (height, width)
        config.data.pad = config.data.pad or network.preprocess.pad
    if config.data.channels is None:
        config.data.channels = 1 if channels == 1 else 3
    if config.data.mean is None and config.data.std is None:
        mean, std = network.preprocess.mean, network.preprocess.std
        config.data.mean = _of_channels(mean, config.data.channels)
        config.data.std = _of_channels(std, config.data.channels)
    return config


def make_initialization(
    config: ExperimentConfig,
    make: Callable[[int], nn.Module],
    class_names: tuple[str, ...],
    input_shape: tuple[int, int, int],
    num_train: int,
    lineage: Mapping[str, Any] | None = None,
) -> Initialization:
    """The pretrained weights that `config.transfer` names, and the plan of their training.

    Args:
        config: the experiment.
        make: number of classes -> module.
        class_names: of the data.
        input_shape: (h, w, c) of what the model takes.
        num_train: training images.
        lineage: of a run that is resumed, whose source may be gone.

    Raises:
        ConfigError: a plan that cannot be.
        CheckpointError: the source is missing, damaged or of another model.
    """
    transfer = config.transfer
    assert transfer is not None
    model = make(len(class_names))
    if lineage is not None:
        return _from_lineage(lineage, model, input_shape)
    place = source_folder(transfer)
    trained = restore_run(place, transfer.checkpoint, named=CHECKPOINT)
    _check_model(config, trained.config)
    stages = stages_of(model, input_shape)
    plan = make_plan(transfer, stages, num_train, config.train.num_epochs)
    variables = jax.tree.map(np.asarray, trained.variables)
    pretrained = adapt_pretrained(
        variables,
        trained.network.target.names,
        make,
        class_names,
        input_shape,
        stages,
        keep_classes=transfer.classes == "shared",
        fresh=transfer.fresh,
        seed=config.seed,
    )
    _check_nothing_random_is_frozen(plan, pretrained)
    anchor: Tree = {}
    if transfer.l2_sp:
        held = pretrained.unchanged.__contains__
        anchor, _ = trees.partition(pretrained.variables["params"], held)
        trained_paths = {path for group in plan.groups if group.rate for path in group.paths}
        if not trained_paths & pretrained.unchanged:
            problem = (
                f"config.transfer.l2_sp is {transfer.l2_sp:g}, but nothing that is trained has "
                "weights of the source to be pulled towards; leave it out, or train more by "
                "config.transfer.strategy."
            )
            raise ConfigError(problem, where="config.transfer.l2_sp", found=transfer.l2_sp)
    lineage = {
        "source": str(place),
        "checkpoint": trained.step,
        "digest": digest_of(variables),
        "plan": dataclasses.asdict(plan),
        "settings": _settings(transfer),
        "notes": list(pretrained.notes),
        "held": sorted(trees.flatten(anchor)),
        "before": lineage_in(read_record(place)),
    }
    return Initialization(plan, pretrained, anchor, lineage)


def _settings(transfer: TransferConfig) -> list[str]:
    """Settings that change a training beside its plan and its first weights, in words."""
    names = ("l2_sp", "dropout", "augmented_passes")
    values = {name: getattr(transfer, name) for name in names}
    return [f"config.transfer.{name}={value:g}" for name, value in values.items() if value]


def _check_nothing_random_is_frozen(plan: Plan, pretrained: Pretrained) -> None:
    given = trees.flatten(pretrained.variables.get("params", {}))
    for group in plan.groups:
        lost = [path for path in group.paths if path not in given and not group.rate]
        if lost:
            field = "rates" if plan.strategy == "rates" else "strategy"
            problem = (
                f"{lost[0]} begins anew, since the source has nothing for it or config.transfer "
                f"says so, but the plan freezes it ({group.name}), so that it would stay random; "
                "let it be trained by config.transfer.strategy or config.transfer.rates."
            )
            raise ConfigError(problem, where=f"config.transfer.{field}", found=lost[0])


def _from_lineage(
    lineage: Mapping[str, Any], model: nn.Module, input_shape: tuple[int, int, int]
) -> Initialization:
    """Of a run that is resumed: its plan, and shapes of the weights in its checkpoints."""
    shapes = trace_module(model, input_shape).shapes
    held = frozenset(lineage["held"])
    anchor, _ = trees.partition(shapes["params"], held.__contains__)
    notes = tuple(lineage["notes"])
    plan = Plan.from_json(lineage["plan"])
    return Initialization(plan, Pretrained({}, held, notes), anchor, dict(lineage))


def check_same_source(
    config: ExperimentConfig,
    lineage: Mapping[str, Any],
    workdir: Path,
    processes: Processes = SINGLE_PROCESS,
) -> None:
    """Refuses to resume a run that was started from other weights than the config names.

    A source that was moved, or is gone, is no other one. All processes call this.

    Raises:
        WorkdirError: the source is another one.
    """
    if config.transfer is None or config.transfer.source == lineage["source"]:
        return
    digest = None
    if processes.is_primary:
        with suppress(CnnLabError):
            place, which = source_folder(config.transfer), config.transfer.checkpoint
            trained = restore_run(place, which, named=CHECKPOINT, processes=SINGLE_PROCESS)
            digest = digest_of(trained.variables)
    if processes.broadcast(digest) not in (None, lineage["digest"]):
        problem = (
            f"{workdir} was begun with the weights of {lineage['source']}, which are not those of "
            f"{config.transfer.source}; give another --workdir, or that source."
        )
        raise WorkdirError(problem, where=SOURCE, found=config.transfer.source)


def digest_of(variables: Tree) -> str:
    """SHA-256 of all variables, by path."""
    text = json.dumps(trees.digests(variables), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _check_model(config: ExperimentConfig, source_config: ExperimentConfig) -> None:
    wanted, found = config.model.name, source_config.model.name
    if wanted != found:
        assert config.transfer is not None
        problem = (
            f"config.model.name is {wanted}, but the source {config.transfer.source} is a {found}; "
            f"set config.model.name={found}, or give another config.transfer.source."
        )
        raise ConfigError(problem, where="config.model.name", found=wanted, allowed=found)


def _of_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) == channels:
        return values
    return (sum(values) / len(values),) * channels
