"""Evaluates a trained run on its validation split, or on the test split, which is locked elsewhere.

Every opening of the test split is counted in the run's record and shown on its report page.

Examples:
  cnn-lab evaluate --workdir=runs/mnist/lenet5
  cnn-lab evaluate --workdir=runs/mnist/lenet5 --split=test
"""

import sys
import time
from pathlib import Path
from typing import Any

from absl import flags

from cnn_lab.cli import runtime
from cnn_lab.cli.main import Invocation
from cnn_lab.config import NO_DATA, ExperimentConfig
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.numbers import counted


def define_flags(values: flags.FlagValues) -> None:
    """Declares the flags of this command."""
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    flags.DEFINE_string("split", "validation", "train, validation or test", flag_values=values)
    flags.DEFINE_string("checkpoint", "best", "best, latest or a step", flag_values=values)
    flags.DEFINE_integer(
        "batch_size",
        None,
        "images per step, config.evaluate.batch_size of the run by default; metrics do not depend "
        "on it",
        flag_values=values,
    )


def main(invocation: Invocation) -> int:
    """Prints the metrics of one split."""
    values = invocation.flags
    if invocation.arguments:
        raise ConfigError(f"evaluate takes flags only; found {invocation.arguments[0]!r}.")
    if not values.workdir:
        raise ConfigError("--workdir is missing: give the folder of a trained run.")
    if values.split not in ("train", "validation", "test"):
        raise ConfigError(f"--split must be train, validation or test; found {values.split!r}.")
    if values.batch_size is not None and values.batch_size < 1:
        raise ConfigError(f"--batch_size must be at least 1; found {values.batch_size}.")
    runtime.start(None)
    from cnn_lab import build
    from cnn_lab.cli.trained import open_trained
    from cnn_lab.data.catalog import open_dataset
    from cnn_lab.train.mesh import choose_num_devices, make_mesh, replicated
    from cnn_lab.train.workdir import count_test_opening, read_config, read_record

    workdir = Path(values.workdir)
    config = read_config(workdir)
    if config.data.name == NO_DATA:
        raise ConfigError(
            f"The weights in {workdir} were imported, and no data set belongs to them; classify "
            f"images by cnn-lab predict --workdir={workdir} IMAGE..."
        )
    batch_size = values.batch_size or config.evaluate.batch_size
    mesh = make_mesh(choose_num_devices(batch_size, None))
    trained = open_trained(workdir, values.checkpoint, replicated(mesh))
    config, network = trained.config, trained.network
    config.evaluate.batch_size = batch_size
    dataset = open_dataset(config.data.name, config.data.data_dir, progress=_say)
    recorded = read_record(workdir).get("fingerprint", dataset.info.fingerprint)
    if recorded != dataset.info.fingerprint:
        raise ConfigError(
            f"The data of {config.data.name} changed since {workdir} was trained; figures would "
            "not be comparable: bring the old data back."
        )
    subset = _examples(values.split, dataset, config)
    pipeline = build.evaluation_pipeline(config, network, subset, mesh)
    start = time.perf_counter()
    metrics = build.make_evaluator(network, pipeline, mesh)(trained.variables)
    seconds = time.perf_counter() - start
    count = len(pipeline.order.indices)
    images = counted(count, "image")
    lines = [f"{values.split} split, {images}, checkpoint {trained.step}, {seconds:.1f} s"]
    lines += [f"  {name:<12} {value:.6f}" for name, value in metrics.items()]
    if "accuracy" in metrics:
        wrong = round(count * (1 - metrics["accuracy"]))
        lines.append(f"  {'errors':<12} {wrong} ({wrong / count:.2%})")
    if values.split == "test":
        times = count_test_opening(workdir, {"step": trained.step, **metrics})
        lines.append(f"  the test split of this run has now been opened {counted(times, 'time')}")
        from cnn_lab.report.page import write_report  # half a second for matplotlib

        lines.append(f"  report       {write_report(workdir).page}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def _examples(split: str, dataset: Any, config: ExperimentConfig) -> Any:
    """The examples of a split, as the run of `config` divided the data."""
    from cnn_lab.data.assemble import choose_examples, whole
    from cnn_lab.data.catalog import unlock_test

    if split == "test":
        return whole(unlock_test(dataset), config.data)
    train, validation = choose_examples(dataset, config.data)
    if split == "train":
        return train
    if not len(validation):
        others = [
            f"--split={name}" for name in ("train", "test") if name in dataset.info.split_sizes
        ]
        raise ConfigError(
            f"This run held out no validation examples; evaluate {' or '.join(others)}."
        )
    return validation
