"""Weights from torchvision, timm or elsewhere, written as an ordinary run, and back in a file."""

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cnn_lab.checkpoint.writer import Checkpoints
from cnn_lab.config import NO_DATA, DataConfig, ExperimentConfig, ModelSpec, OptimConfig
from cnn_lab.config.node import to_dict
from cnn_lab.config.values import check_options
from cnn_lab.core import trees
from cnn_lab.core.errors import WorkdirError, system_errors_explained
from cnn_lab.data.normalize import Preprocess
from cnn_lab.experiment.components import make_components
from cnn_lab.experiment.network import Network
from cnn_lab.experiment.restore import RestoredRun, restore_run
from cnn_lab.models.registry import MODELS
from cnn_lab.tasks.classification import classification
from cnn_lab.train.progress import Progress
from cnn_lab.train.state import TrainState
from cnn_lab.transfer import weight_files
from cnn_lab.transfer.convert import (
    ImportedWeights,
    Tensors,
    import_tensors,
    make_table,
    num_values,
    to_torch,
)
from cnn_lab.transfer.naming import PIXELS_IN_MINUS_ONE_TO_ONE, choose_naming, namings_of
from cnn_lab.workdir.run_dir import CHECKPOINTS, RunDir, Session, environment, read_config

# The mean and deviation of pixels in [0, 1] that published weights want: those of ImageNet.
IMAGENET_PIXELS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def published_pixels(model: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and deviation, per channel, of the pixels that a model's published weights want.

    Raises:
        ConfigError: there are no published weights.
    """
    namings_of(model)
    return ((0.5,) * 3, (0.5,) * 3) if model in PIXELS_IN_MINUS_ONE_TO_ONE else IMAGENET_PIXELS


def import_weights(
    model: str,
    file: Path,
    out: Path,
    *,
    options: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
    image_shape: tuple[int, int, int] | None = None,
    preprocess: Preprocess | None = None,
    library: str | None = None,
    renames: Sequence[str] = (),
    new_head: bool = False,
    seed: int = 0,
) -> tuple[ImportedWeights, int]:
    """Writes the weights of a file as a run of a model.

    Args:
        model: name, as `cnn-lab list models` shows it.
        file: of weights, safetensors or PyTorch's.
        out: folder of the run, empty or not there.
        options: of the model.
        class_names: label to name; by default `class_0` and so on, as many as in the paper.
        image_shape: (h, w, c) of the model's images; by default the paper's.
        preprocess: of the pixels; by default as the published weights want them.
        library: whose names the file has, `torchvision` or `timm`; by default the one that fits
            best.
        renames: `REGEX=>REPLACEMENT` of names in the file, in order.
        new_head: leave the output layers at their initial values.
        seed: of those values.

    Returns:
        The weights, and the number of values in the file.

    Raises:
        CnnLabError: no such model, a file that cannot be read or does not fit, or a folder that
            holds something.
    """
    entry, namings = MODELS.lookup(model), namings_of(model)
    if library is not None:
        namings = {library: choose_naming(namings, library)}
    rules = weight_files.parse_renames(renames)
    require_new(out)
    options = check_options(entry.make, options or {}, "options", "model")
    shape = image_shape or entry.image_shape
    names = tuple(class_names or (f"class_{number}" for number in range(entry.num_classes)))

    def make(num_classes: int) -> nn.Module:
        return entry.make(num_classes, **options)

    tensors = weight_files.rename(weight_files.read_weights(file), rules)
    imported = import_tensors(
        make, len(names), shape, namings, tensors, new_head=new_head, seed=seed
    )
    network = Network(
        make(len(names)),
        classification("cross_entropy"),
        names,
        shape,
        preprocess or Preprocess(*published_pixels(model)),
    )
    origin = {
        "file": file.name,
        "sha256": weight_files.digest(file),
        "naming": imported.library,
        "renames": list(renames),
        "left_at_initial_values": list(imported.new_layers),
        "interpolation": "bilinear",
    }
    config = _untrained_config(model, options, network)
    write_run(out, config, network, imported.variables, "imported", imported=origin)
    return imported, num_values(tensors)


def export_weights(
    workdir: Path, out: Path, *, checkpoint: str = "best", library: str = "torchvision"
) -> tuple[RestoredRun, Tensors]:
    """Writes the weights of a run as a safetensors file, named as in a library.

    Args:
        workdir: folder of the run.
        out: the file.
        checkpoint: `best`, `latest` or a step.
        library: `torchvision` or `timm`.

    Returns:
        The run, and the tensors of the file by name.

    Raises:
        CnnLabError: no such run or checkpoint, or a model that the library does not have.
    """
    model = read_config(workdir).model.name
    naming = choose_naming(namings_of(model), library)
    restored = restore_run(workdir, checkpoint)
    table = make_table(restored.network.model, restored.variables, naming)
    tensors = to_torch(restored.variables, table)
    weight_files.write_safetensors(out, tensors, {"model": model, "naming": library})
    return restored, tensors


def _untrained_config(name: str, options: dict[str, Any], network: Network) -> ExperimentConfig:
    """The config of a run that was not trained here: no data set, plain gradient descent."""
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
        config: of the model, or of the runs that the weights were made from.
        network: the model with its classes and preprocessing.
        variables: parameters and statistics, by collection.
        status: in the record, in place of `finished`.
        **facts: of the origin of the weights, for the record.

    Raises:
        CnnLabError: it cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with system_errors_explained(path):
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
                session.update(status, 0, progress=dataclasses.asdict(Progress()))
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
    with Checkpoints(folder.path / CHECKPOINTS) as checkpoints:
        progress = dataclasses.asdict(Progress())
        record = {"progress": progress, "metadata": network.metadata()}
        checkpoints.save(state, record, best_step=0)
        checkpoints.wait()
