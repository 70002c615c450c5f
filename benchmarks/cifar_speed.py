"""Seconds until a network has 94 % validation accuracy on CIFAR-10.

A ResNet-18 with a small stem, SGD with Nesterov momentum and one cycle of the learning rate, label
smoothing, flips, shifts of 4 pixels and a square of noise; in bfloat16 unless on a CPU. Validation
are 5,000 training images that are held out, the same for all seeds; the test images are not looked
at. Each seed is one `run_training` from nothing to its end in a temporary folder, checkpoints and
all, and a sink notes when its evaluations come in. Seconds to the end of the first evaluation that
reaches the target:

  compile   both programs, without the cache of compiled programs
  steps     training steps alone
  training  steps, evaluations and checkpoints
  wall      from the call of `run_training` on: data, compiling and initial weights too

Data are prepared, decoded and measured before (cnn-lab data prepare cifar10).

  python benchmarks/cifar_speed.py --seeds=5
  python benchmarks/cifar_speed.py --data=folder:DIR --target=0.9       (a copy as JPEG files)
  python benchmarks/cifar_speed.py --target=0.3 --epochs=1 --width=8 --num_train=2560 --seeds=2

Figures are in BUILD_NOTES.md.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from cnn_lab.cli import runtime
from cnn_lab.config import (
    AugmentConfig,
    CheckpointConfig,
    DataConfig,
    EvaluateConfig,
    ExperimentConfig,
    LogConfig,
    ModelConfig,
    OptimConfig,
    ScheduleConfig,
    TaskConfig,
    TrainConfig,
)
from cnn_lab.core.errors import CnnLabError, TrainingError
from cnn_lab.data.datasets.catalog import open_dataset
from cnn_lab.data.loaders.factory import make_preprocess
from cnn_lab.data.subsets import choose_examples
from cnn_lab.distributed.mesh import choose_num_devices
from cnn_lab.runs.train import run_training
from cnn_lab.workdir.run_dir import read_record

NUM_VALIDATION = 5000
TIMES = ("compile", "steps", "training", "wall")
# A square of 8 x 8 pixels in every image.
SQUARE = {"erasing": 1.0, "erasing_area": (0.0625, 0.0625), "erasing_aspect": (1.0, 1.0)}


def main() -> None:
    """Prints a line a seed, a table and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", default="cifar10", help="a data set's name, or folder:DIR")
    parser.add_argument("--target", type=float, default=0.94, help="validation accuracy")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3, help="trainings, from seeds 0, 1, ...")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--width", type=int, default=64, help="channels of its first stage")
    parser.add_argument("--dtype", help="default: bfloat16, on a CPU float32")
    parser.add_argument("--batch_size", type=int, default=512)
    parser.add_argument("--learning_rate", type=float, default=0.4, help="highest of the cycle")
    parser.add_argument("--num_train", type=int, help="images trained on; default: all others")
    arguments = parser.parse_args()
    if not 0 < arguments.target <= 1:
        parser.error(f"--target is a share, such as 0.94; found {arguments.target:g}")
    runtime.start(None)
    jax.config.update("jax_compilation_cache_dir", None)  # what compiling costs is shown
    try:
        run(arguments)
    except CnnLabError as error:
        sys.exit(f"Error: {error}")


def run(arguments: argparse.Namespace) -> None:
    """Prepares the data, trains seed by seed, and says how long it took."""
    config = make_config(arguments)
    train, validation = choose_examples(open_dataset(arguments.data, prepare=False), config.data)
    train.source.read_all()  # decodes what is not decoded yet
    make_preprocess(config.data, train)
    num_devices = choose_num_devices(arguments.batch_size, None)
    print(
        f"{arguments.model} of width {arguments.width}, {config.model.options['dtype']}, "
        f"{arguments.data}: {len(train):,} images, {arguments.epochs} epochs, batches of "
        f"{arguments.batch_size}; target {arguments.target:.1%} of {len(validation):,} held out; "
        f"{num_devices} x {jax.devices()[0].device_kind}, jax {jax.__version__}",
        flush=True,
    )
    found = []
    for seed in range(arguments.seeds):
        found.append(train_once(make_config(arguments, seed), arguments.target, len(train)))
        print(f"seed {seed}: {in_words(found[-1], arguments)}", flush=True)
    reached = [result for result in found if result["epoch"] is not None]
    if reached:
        print(f"\n| {len(reached)} of {len(found)} seeds | mean | deviation | least | most |")
        print("| --- | --- | --- | --- | --- |")
        for name in ("epoch", *TIMES, "best"):
            values = [result[name] for result in reached]
            deviation = f"{statistics.stdev(values):.3g}" if len(values) > 1 else "?"
            title = {"epoch": "epochs", "best": "best accuracy"}.get(name, f"{name}, s")
            numbers = f"{deviation} | {min(values):.4g} | {max(values):.4g}"
            print(f"| {title} | {statistics.mean(values):.4g} | {numbers} |")
    print(json.dumps(found))


def make_config(arguments: argparse.Namespace, seed: int = 0) -> ExperimentConfig:
    """The recipe."""
    dtype = arguments.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    return ExperimentConfig(
        seed=seed,
        data=DataConfig(
            name=arguments.data,
            image_size=(32, 32),
            num_validation=NUM_VALIDATION,
            num_train=arguments.num_train,
            augment=AugmentConfig(recipe="cifar", strength="light", options=SQUARE),
            loader="in_memory",
        ),
        model=ModelConfig(
            name=arguments.model,
            options={"stem": "small", "width": arguments.width, "dtype": dtype},
        ),
        task=TaskConfig(loss_options={"label_smoothing": 0.1}),
        optim=OptimConfig(
            name="momentum",
            learning_rate=arguments.learning_rate,
            options={"nesterov": True},
            l2=5e-4,
            schedule=ScheduleConfig(name="one_cycle"),
        ),
        train=TrainConfig(num_epochs=arguments.epochs, batch_size=arguments.batch_size),
        evaluate=EvaluateConfig(batch_size=1000),
        checkpoint=CheckpointConfig(keep_latest=1),
        log=LogConfig(tensorboard=False),
    )


class Clock:
    """A sink that notes when evaluations come in, and what went before them.

    Attributes:
        accuracies: of the evaluations so far.
        reached: epoch and times of the first one at or above the target.

    Args:
        target: accuracy.
        num_train: examples of an epoch, after each of which rows come in.
    """

    def __init__(self, target: float, num_train: int):
        self.accuracies: list[float] = []
        self.reached: dict[str, Any] = {"epoch": None}
        self._target, self._num_train = target, num_train
        self._called, self._steps, self._begun = time.perf_counter(), 0.0, None

    def write(self, row: Mapping[str, Any]) -> None:
        """Takes a row of an epoch's training, and then one of its evaluation."""
        now = time.perf_counter()
        if row["split"] == "train":
            self._steps += self._num_train / row["examples_per_second"]
            if self._begun is None:
                self._begun = now - self._steps
            return
        self.accuracies.append(row["accuracy"])
        if self.reached["epoch"] is None and row["accuracy"] >= self._target:
            training = now - (self._begun or now)
            times = {"steps": self._steps, "training": training, "wall": now - self._called}
            self.reached = {"epoch": row["epoch"], "accuracy": row["accuracy"], **times}

    def close(self) -> None:
        """Nothing is kept open."""


def train_once(config: ExperimentConfig, target: float, num_train: int) -> dict[str, Any]:
    """Trains from nothing to the end; returns accuracies and, where it was reached, times."""
    with tempfile.TemporaryDirectory() as folder:
        workdir, clock = Path(folder, "run"), Clock(target, num_train)
        result, failed = None, None
        try:
            result = run_training(config, workdir, lambda _: None, metric_writers=[clock])
        except TrainingError as error:
            failed = str(error)
        if result is not None and result.status == "interrupted":
            sys.exit("Interrupted.")
        compiled = read_record(workdir).get("compile_seconds")
    return {
        "compile": compiled,
        **clock.reached,
        "best": max(clock.accuracies, default=None),
        "last": clock.accuracies[-1] if clock.accuracies else None,
        "failed": failed,
    }


def in_words(result: Mapping[str, Any], arguments: argparse.Namespace) -> str:
    """One training."""
    failed = f"; {result['failed']}" if result["failed"] else ""
    if result["best"] is None:
        return f"no evaluation{failed}"
    ended = f"best {result['best']:.2%}, last {result['last']:.2%}{failed}"
    if result["epoch"] is None:
        return f"target of {arguments.target:.1%} not reached; {ended}"
    times = ", ".join(f"{name} {result[name]:.1f} s" for name in TIMES)
    return f"{result['accuracy']:.2%} after {result['epoch']:g} epochs: {times}; {ended}"


if __name__ == "__main__":
    main()
