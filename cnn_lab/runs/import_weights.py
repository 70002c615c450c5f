"""Imported or averaged weights, written as an ordinary run."""

import dataclasses
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cnn_lab.checkpoint.writer import Checkpoints
from cnn_lab.config import NO_DATA, DataConfig, ExperimentConfig, ModelSpec, OptimConfig
from cnn_lab.config.node import to_dict
from cnn_lab.core import trees
from cnn_lab.core.errors import WorkdirError
from cnn_lab.core.refusals import refusals_told
from cnn_lab.experiment.components import make_components
from cnn_lab.experiment.network import Network
from cnn_lab.train.progress import Progress
from cnn_lab.train.state import TrainState
from cnn_lab.workdir.run_dir import CHECKPOINTS, RunDir
from cnn_lab.workdir.session import Session, environment


def config_of(name: str, options: dict[str, Any], network: Network) -> ExperimentConfig:
    """The config of a run that has not been trained: no data set, plain gradient descent."""
    height, width, channels = network.image_shape
    assert channels in (1, 3)
    data = DataConfig(
        name=NO_DATA,
        image_size=(height, width),
        channels=channels,
        mean=network.preprocess.mean,
        std=network.preprocess.std,
    )
    model = ModelSpec(name=name, options=options)
    return ExperimentConfig(data=data, model=model, optim=OptimConfig(name="sgd"))


def require_new(path: Path) -> None:
    """Raises a `WorkdirError` unless a run can be written there without losing anything."""
    if path.name in ("", ".."):
        raise WorkdirError(f"--out={path} has no name of its own; give a new folder.")
    if path.exists() and not path.is_dir():
        raise WorkdirError(f"--out={path} is a file; give a new folder.")
    if path.exists() and any(path.iterdir()):
        raise WorkdirError(f"--out={path} is not empty; give a new folder, or remove that one.")


def write_run(
    path: Path,
    config: ExperimentConfig,
    network: Network,
    variables: Mapping[str, Any],
    status: str,
    **facts: Any,
) -> None:
    """Writes a run with one checkpoint, of step 0, whole or not at all.

    Args:
        path: a folder that is empty or not there.
        config: of `config_of`, or that of the runs the weights were made from.
        network: what predicts.
        variables: parameters and statistics, by collection.
        status: what the record says of the run in place of `finished`.
        **facts: where the weights came from, for the record.

    Raises:
        CnnLabError: it cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with refusals_told(path):
            folder = RunDir(unfinished, config)
            try:
                folder.claim(config)
                session = Session(
                    folder,
                    environment(),
                    0,
                    config=to_dict(config),
                    class_names=list(network.class_names),
                    num_parameters=trees.count(variables["params"]),
                    **facts,
                )
                _save(folder, config, network, variables)
                session.end(status, dataclasses.asdict(Progress()))
            finally:
                folder.release()
            unfinished.replace(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _save(
    folder: RunDir, config: ExperimentConfig, network: Network, variables: Mapping[str, Any]
) -> None:
    # Never to be used, and so without the schedule, which may not fit a training of no steps.
    optimizer = make_components(config).make_optimizer(optax.constant_schedule(0.0))
    values = jax.tree.map(jnp.asarray, dict(variables))
    params = values.pop("params")
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        collections=values,
        opt_state=optimizer.init(params),
        averaged={},
        key=jax.random.key(config.seed),
    )
    checkpoints = Checkpoints(folder.path / CHECKPOINTS)
    try:
        progress = dataclasses.asdict(Progress())
        record = {"progress": progress, "metadata": network.metadata()}
        checkpoints.save(state, record, best_step=0)
        checkpoints.wait()
    finally:
        checkpoints.release()
