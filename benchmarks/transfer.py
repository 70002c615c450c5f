"""Cost of a training from the weights of another run, by what of the network is trained.

Step time, interleaved rounds in one process; memory of optimizer and scratch; and what features
that are computed once save. The weights are random and the images digits, which changes no cost.

  python benchmarks/transfer.py
  python benchmarks/transfer.py --model=resnet50 --size=224 --batch_size=16
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnn_lab.cli import runtime
from cnn_lab.config import (
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    TransferConfig,
)
from cnn_lab.core import trees
from cnn_lab.experiment.build import build_experiment
from cnn_lab.experiment.experiment import Experiment
from cnn_lab.experiment.initialization import complete_config
from cnn_lab.runs import import_weights
from cnn_lab.runs.trainer import CompiledPhase
from cnn_lab.training.averaging import evaluated_variables

MIB = 2**20
ROWS = {
    "all": ("all", True),
    "last_stages:1": ("last_stages:1", True),
    "head, backbone at every step": ("head", False),
    "head, features computed once": ("head", True),
}


def main() -> None:
    """Prints one line a strategy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--num_train", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    runtime.start(None)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source")
        experiment = build_experiment(config(options))
        variables = jax.device_get(evaluated_variables(experiment.init_state(0)))
        import_weights.write_run(source, config(options), experiment.network, variables, "imported")
        measured = {}
        for name, (strategy, cached) in ROWS.items():
            transfer = TransferConfig(
                source=str(source), strategy=strategy, cache_features=cached, classes="fresh"
            )
            measured[name] = Measured(build_experiment(complete_config(config(options, transfer))))
        epochs = {name: [] for name in ROWS}
        for _ in range(options.rounds):
            for name, row in measured.items():
                epochs[name].append(row.epoch())
        rates = jax.devices()[0].device_kind, sys.version.split()[0], jax.__version__
        print(
            f"{options.model}, {options.size} pixels, {options.num_train} images, batches of "
            f"{options.batch_size}; {rates[0]}, Python {rates[1]}, jax {rates[2]}"
        )
        print(
            f"{'trained':<30}{'ms a step':>10}{'min':>8}{'max':>8}{'optimizer MiB':>15}"
            f"{'scratch MiB':>13}{'once s':>8}"
        )
        for name, row in measured.items():
            steps = [1000 * seconds / row.num_steps for seconds in epochs[name]]
            print(
                f"{name:<30}{statistics.median(steps):>10.2f}{min(steps):>8.2f}{max(steps):>8.2f}"
                f"{row.optimizer / MIB:>15.2f}{row.scratch / MIB:>13.1f}{row.once:>8.2f}"
            )
        pairs = zip(*(epochs[name] for name in list(ROWS)[2:]), strict=True)
        ratios = [backbone / features for backbone, features in pairs]
        print(
            f"an epoch on features is {statistics.median(ratios):.0f} times as fast "
            f"({min(ratios):.0f} to {max(ratios):.0f}, n = {len(ratios)})"
        )


def config(options: Any, transfer: TransferConfig | None = None) -> ExperimentConfig:
    """Digits, enlarged; every strategy has the same optimizer."""
    size = (options.size, options.size)
    return ExperimentConfig(
        data=DataConfig(
            image_size=size, channels=3, num_train=options.num_train, num_validation=64
        ),
        model=ModelConfig(name=options.model),
        optim=OptimConfig(name="adamw", learning_rate=1e-4),
        train=TrainConfig(num_epochs=100, batch_size=options.batch_size),
        transfer=transfer,
    )


class Measured:
    """A compiled training.

    Attributes:
        num_steps: of an epoch.
        optimizer: bytes of its state.
        scratch: bytes of a call.
        once: seconds that the features took.
    """

    def __init__(self, experiment: Experiment):
        self._state = experiment.init_state(0)
        start = time.perf_counter()
        experiment.load_features(self._state, lambda _: None)
        self.once = time.perf_counter() - start if experiment.features else 0.0
        phase = CompiledPhase(experiment, 0)
        self._program, self._loader = phase.program, experiment.train_loader
        self._everywhere = experiment.mesh.replicated
        self._split = experiment.mesh.batches
        self.num_steps, self._step = experiment.steps_per_epoch, 0
        self.optimizer = trees.num_bytes(self._state.opt_state)
        self.scratch = phase.program.temporary_bytes
        self.epoch()  # the first call warms up

    def epoch(self) -> float:
        """Trains an epoch; returns its seconds."""
        start, left = time.perf_counter(), self.num_steps
        while left:
            number = min(left, self._loader.max_steps)
            raw_batches = jax.device_put(self._loader.load(self._step, number), self._split)
            scalars = jax.device_put((np.int32(self._step), np.int32(number)), self._everywhere)
            self._state, history, _ = self._program.call(
                self._state, self._loader.device_arrays, raw_batches, *scalars, {}
            )
            jax.block_until_ready(history)
            self._step, left = self._step + number, left - number
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
