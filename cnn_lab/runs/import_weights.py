"""Weights from torchvision, timm or elsewhere, written as an ordinary run, and back in a file."""

import dataclasses
import functools
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cnn_lab.checkpoint.writer import Checkpoints
from cnn_lab.config import NO_DATA, DataConfig, ExperimentConfig, ModelConfig, OptimConfig
from cnn_lab.config.node import to_dict
from cnn_lab.config.values import check_options
from cnn_lab.core import trees
from cnn_lab.core.errors import WorkdirError, system_errors_explained
from cnn_lab.data.normalize import Preprocess
from cnn_lab.experiment.components import make_components
from cnn_lab.experiment.network import Network
from cnn_lab.experiment.outside import imported_code
from cnn_lab.experiment.restore import RestoredRun, restore_run
from cnn_lab.models.registry import MODELS
from cnn_lab.tasks.classification import classification
from cnn_lab.training.progress import Progress
from cnn_lab.training.state import TrainState
from cnn_lab.transfer import convert, weight_files
from cnn_lab.transfer.naming import PIXELS_IN_MINUS_ONE_TO_ONE, choose_naming, namings_of
from cnn_lab.workdir.run_dir import CHECKPOINTS, RunDir, Session, environment, read_config

# The mean and deviation of pixels in [0, 1] that published weights want: those of ImageNet.
IMAGENET_PIXELS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def published_pixels(model: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and deviation, per channel, of the pixels that a model's published weights want."""
    namings_of(model)  # raises a `ConfigError` where there are none
    return ((0.5,) * 3, (0.5,) * 3) if model in PIXELS_IN_MINUS_ONE_TO_ONE else IMAGENET_PIXELS


def write_imported(
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
) -> tuple[convert.ImportedWeights, int]:
    """Writes the weights of a safetensors or PyTorch file as a run, in a folder empty or new.

    By default there are as many classes as in the paper, `class_0` and so on, image shape (h, w, c)
    and preprocessing are those of the published weights, and the library, `torchvision` or `timm`,
    is the one whose names fit best. `renames` are `REGEX=>REPLACEMENT` of names in the file, in
    order; a new head stays at its initial values, drawn from the seed. Returns the weights, and the
    number of values in the file.

    Raises:
        CnnLabError: no such model, a file that does not fit, a folder that holds something.
    """
    entry, namings = MODELS.lookup(model), namings_of(model)
    if library is not None:
        namings = {library: choose_naming(namings, library)}
    rules = weight_files.parse_renames(renames)
    require_new(out)
    options = check_options(entry.make, options or {}, "options", "model")
    shape = image_shape or entry.image_shape
    names = tuple(class_names or (f"class_{number}" for number in range(entry.num_classes)))
    make = functools.partial(entry.make, **options)
    tensors = weight_files.rename(weight_files.read_weights(file), rules)
    imported = convert.import_tensors(
        make, len(names), shape, namings, tensors, new_head=new_head, seed=seed
    )
    network = Network(
        make(len(names)),
        classification(class_names=names),
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
    height, width, channels = shape
    assert channels in (1, 3)
    # That of a run that was not trained here: no data set, plain gradient descent.
    config = ExperimentConfig(
        data=DataConfig(
            name=NO_DATA,
            image_size=(height, width),
            channels=channels,
            mean=network.preprocess.mean,
            std=network.preprocess.std,
        ),
        model=ModelConfig(name=model, options=options),
        optim=OptimConfig(name="sgd"),
    )
    write_run(out, config, network, imported.variables, "imported", imported=origin)
    return imported, convert.num_values(tensors)


def export_weights(
    workdir: Path, out: Path, *, checkpoint: str = "best", library: str = "torchvision"
) -> tuple[RestoredRun, convert.Tensors]:
    """Writes the weights of a run as a safetensors file, named as in `torchvision` or `timm`.

    Returns the run, and the tensors of the file by name.
    """
    model = read_config(workdir).model.name
    naming = choose_naming(namings_of(model), library)
    restored = restore_run(workdir, checkpoint)
    table = convert.make_table(restored.network.model, restored.variables, naming)
    tensors = convert.to_torch(restored.variables, table)
    weight_files.write_safetensors(out, tensors, {"model": model, "naming": library})
    return restored, tensors


def require_new(path: Path) -> None:
    """Raises a `WorkdirError` unless a run can be written there without losing anything."""
    problem = ""
    if path.name in ("", ".."):
        problem = "has no name of its own; give a new folder"
    elif path.exists() and not path.is_dir():
        problem = "is a file; give a new folder"
    elif path.exists() and any(path.iterdir()):
        problem = "is not empty; give a new folder, or remove that one"
    if problem:
        raise WorkdirError(f"--out={path} {problem}.", where="--out", found=str(path))


def write_run(
    path: Path,
    config: ExperimentConfig,
    network: Network,
    variables: Mapping[str, Any],
    status: str,
    **facts: Any,
) -> None:
    """Writes a run with one checkpoint, of step 0, whole or not at all.

    The path is empty or not there. The record has the status in place of `finished`, and the facts
    of the origin of the weights.
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
                    **imported_code(config),
                    target=dataclasses.asdict(network.target),
                    num_parameters=trees.count(variables["params"]),
                    **facts,
                )
                progress = dataclasses.asdict(Progress())
                with Checkpoints(folder.path / CHECKPOINTS) as checkpoints:
                    record = {"progress": progress, "metadata": network.metadata()}
                    checkpoints.save(_first_state(config, variables), record, best_step=0)
                    checkpoints.wait()
                session.update(status, 0, progress=progress)
            finally:
                folder.release()
            unfinished.replace(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _first_state(config: ExperimentConfig, variables: Mapping[str, Any]) -> TrainState:
    # Never to be used, and so without the schedule, which may not fit a training of no steps.
    optimizer = make_components(config).make_optimizer(optax.constant_schedule(0.0))
    values = jax.tree.map(jnp.asarray, dict(variables))
    params = values.pop("params")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        collections=values,
        opt_state=optimizer.init(params),
        averaged={},
        key=jax.random.key(config.seed),
    )
