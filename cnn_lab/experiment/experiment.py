"""An experiment: everything that a run of a config needs, as objects."""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax

from cnn_lab.config import ExperimentConfig
from cnn_lab.core.arrays import Tree
from cnn_lab.core.errors import TrainingError
from cnn_lab.core.memory import device_bytes
from cnn_lab.core.text import human_bytes
from cnn_lab.data.datasets.catalog import Dataset
from cnn_lab.data.loaders.loader import Loader
from cnn_lab.distributed.mesh import DeviceMesh
from cnn_lab.experiment.components import Components
from cnn_lab.experiment.features import Features
from cnn_lab.experiment.initialization import Initialization
from cnn_lab.experiment.network import Network
from cnn_lab.training.averaging import Average, evaluated_variables
from cnn_lab.training.diagnose import explain_non_finite
from cnn_lab.training.evaluate import Evaluator
from cnn_lab.training.frozen import apply_in_training
from cnn_lab.training.phases import Phase
from cnn_lab.training.progress import Intervals
from cnn_lab.training.recalibration import MAX_BATCHES, BatchStatsRecalibration
from cnn_lab.training.state import TrainState
from cnn_lab.training.stepper import prepare_key
from cnn_lab.transfer.logistic import STRENGTHS


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that a run of a config needs.

    Attributes:
        components: the objects that the names in the config stand for.
        network: the whole model, with its task, classes and preprocessing.
        validation_loader: None without validation examples.
        recalibration_loader: training examples again, None where no batch normalisation is
            recalibrated.
        learning_rate: step -> rate.
        phases: parts of the training, in each of which other parameters are trained.
        initialization: pretrained weights that it starts from, None where it starts from scratch.
        features: of a frozen backbone, which take the place of images; None where nothing does.
        notes: sentences for the user.
    """

    config: ExperimentConfig
    components: Components
    network: Network
    dataset: Dataset
    mesh: DeviceMesh
    train_loader: Loader
    validation_loader: Loader | None
    recalibration_loader: Loader | None
    average: Average
    learning_rate: Callable[[int], float]
    phases: tuple[Phase, ...]
    initialization: Initialization | None
    features: Features | None
    notes: tuple[str, ...]

    @property
    def module(self) -> nn.Module:
        """The module that steps and evaluations run: the model, or its head alone."""
        return self.network.model if self.features is None else self.features.module

    @property
    def is_linear_probe(self) -> bool:
        """Whether the output layer is fitted to its optimum, in place of a training in steps."""
        return self.initialization is not None and self.initialization.plan.is_linear_probe

    @property
    def fingerprint(self) -> str:
        """Digest of the data, whatever they are called."""
        return self.dataset.info.fingerprint

    @property
    def intervals(self) -> Intervals:
        """Steps at which the run logs, evaluates and saves."""
        if self.is_linear_probe:
            return Intervals(1, len(STRENGTHS), log_every_steps=1, evaluate_every_epochs=1)
        config = self.config
        return Intervals(
            steps_per_epoch=self.steps_per_epoch,
            num_epochs=config.train.num_epochs,
            log_every_steps=config.train.log_every_steps or self.steps_per_epoch,
            evaluate_every_epochs=config.evaluate.every_epochs,
            save_every_steps=config.checkpoint.every_steps,
        )

    @property
    def steps_per_epoch(self) -> int:
        """ceil(training examples / batch size)."""
        return self.train_loader.sampler.steps_per_epoch

    def loaders(self) -> list[Loader]:
        """All loaders that there are; to be closed at the end."""
        found = (self.train_loader, self.validation_loader, self.recalibration_loader)
        return [loader for loader in found if loader is not None]

    def state_shapes(self, phase: int = 0) -> TrainState:
        """Shapes of the state in a phase; nothing is computed."""
        return self.phases[phase].init.shapes

    def init_state(self, seed: int) -> TrainState:
        """The state before the first step, on the devices.

        Raises:
            MemoryError: it is larger than the memory of the devices; they would not say so.
        """
        devices = self.mesh.device_grid.devices.flatten()
        needed, available = self.mesh.bytes_of(self.state_shapes()), device_bytes(devices[0])
        needed *= len(devices) if devices[0].platform == "cpu" else 1  # which share the host's
        if available is not None and needed > available:
            raise MemoryError(f"the state takes {human_bytes(needed)} of {human_bytes(available)}")
        return self.mesh.put_state(
            self.phases[0].init(jax.random.key(seed), *self._initial_values())
        )

    def _initial_values(self) -> tuple[Tree, Tree]:
        if self.initialization is None:
            return {}, {}
        return self.initialization.pretrained.variables, self.initialization.anchor

    def load_features(self, state: TrainState, log: Callable[[str], None]) -> None:
        """Fills the loaders with the features of the frozen backbone, where those are used.

        Any state of the run will do, for the backbone never changes.
        """
        if self.features is not None:
            self.features.load(evaluated_variables(state), self.mesh, log)

    def evaluator(self) -> Evaluator | None:
        """Metrics on the validation split, None without one."""
        if self.validation_loader is None:
            return None
        task, mesh = self.network.task, self.mesh
        return Evaluator(self.module.apply, task, self.validation_loader, mesh)

    def recalibration(self) -> BatchStatsRecalibration | None:
        """Measures batch statistics of averaged weights, None where none need it."""
        if self.recalibration_loader is None:
            return None
        loader = self.recalibration_loader
        return BatchStatsRecalibration(
            functools.partial(apply_in_training, self.network.model),
            loader,
            num_steps=min(MAX_BATCHES, loader.sampler.steps_per_epoch),
            mesh=self.mesh,
        )

    def explain_non_finite(self, state: TrainState, step: int, saved: str) -> Exception:
        """The error of a step from `state` that was not finite; `saved` ends its advice."""
        loader = self.train_loader

        def make_batch() -> Tree:
            if self.mesh.num_processes > 1:
                raise TrainingError("each process has a part of its batch")
            raw_batch = jax.tree.map(lambda stack: stack[0], loader.load(step, 1))
            return loader.prepare(loader.device_arrays, raw_batch, prepare_key(state))

        positions, _ = loader.sampler.batches(step, 1)
        return explain_non_finite(
            self.module,
            self.network.task,
            state,
            make_batch,
            example_ids=positions[0].tolist(),
            step=step,
            num_micro_batches=self.config.train.num_micro_batches,
            advice=f"Lower config.optim.learning_rate, or look at those examples; {saved}",
        )
