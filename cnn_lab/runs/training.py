"""One training in its folder: resumes, compiles, records, and runs phase after phase."""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cnn_lab.checkpoint import storable
from cnn_lab.checkpoint.writer import Checkpoints, check_replicas
from cnn_lab.config.node import to_dict
from cnn_lab.core import trees
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.formatting import counted
from cnn_lab.distributed.mesh import SLICE_AXIS, DeviceMesh
from cnn_lab.experiment.experiment import Experiment
from cnn_lab.runs.compiled import CompiledPhase
from cnn_lab.runs.linear_probe import FittedOutput
from cnn_lab.runs.trainer import PhaseRunner, Surroundings
from cnn_lab.train.averaging import evaluated_variables
from cnn_lab.train.loop import Progress
from cnn_lab.train.state import TrainState
from cnn_lab.workdir.run_dir import CHECKPOINTS, DAMAGED, RunDir, missing_checkpoints
from cnn_lab.workdir.secondary_process import Unrecorded
from cnn_lab.workdir.session import Session, devices_in_words, environment


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run stands.

    Attributes:
        status: `finished`, `stopped early` or `interrupted`.
        progress: steps done, best validation value.
        ran: whether this call trained at all; False on a run that had ended before.
    """

    status: str
    progress: Progress
    ran: bool


def train_in(around: Surroundings, experiment: Experiment, stack: ExitStack) -> Result:
    """Trains an experiment from the newest checkpoint in its folder.

    Args:
        around: the folder, and who takes part and watches.
        experiment: built, not begun.
        stack: gets what is to be closed at the end.

    Raises:
        CnnLabError: anything that the user can mend; nothing already saved is lost.
    """
    folder, log, config, started = around.folder, around.log, experiment.config, environment()
    _check_traced(around.profile_steps, experiment.plan.total_steps)
    checkpoints = Checkpoints(
        folder.path / CHECKPOINTS,
        keep_latest=config.checkpoint.keep_latest,
        processes=around.processes,
    )
    stack.callback(checkpoints.release)
    state, progress = _begun_or_restored(checkpoints, experiment, folder.path, log)
    if experiment.beginning is not None:
        params = evaluated_variables(experiment.state_shapes())["params"]
        for line in experiment.beginning.describe(params, config.optim.learning_rate):
            log(line)
    for note in experiment.notes:
        log(note)
    if around.processes.count > 1:
        digests = trees.digests(storable.to_storable(state))
        check_replicas(around.processes, digests, progress.step)
    experiment = experiment.with_features(state, log)
    if experiment.fits:
        compiled = FittedOutput(experiment, log)
    else:
        compiled = CompiledPhase(experiment, progress.phase)
    evaluator, compile_seconds = experiment.evaluator(), compiled.compile_seconds
    variables = evaluated_variables(experiment.state_shapes(progress.phase))
    if evaluator is not None:
        shapes = experiment.mesh.with_shardings(variables)
        compile_seconds += evaluator.compile(shapes).compile_seconds
    num_parameters = trees.count(variables["params"])
    # So that a signal to all finds all either before the training or in it.
    around.processes.barrier()
    log(f"{_in_words(experiment, num_parameters)}; compiled in {compile_seconds:.1f} s.")
    around.signals.begin()
    folder.claim(config)
    facts = {
        "config": to_dict(config),
        "fingerprint": experiment.fingerprint,
        "loader": experiment.train_loader.name,
        "class_names": list(experiment.network.class_names),
        "num_parameters": num_parameters,
        "compile_seconds": compile_seconds,
    }
    if experiment.beginning is not None:
        facts["transfer"] = experiment.beginning.lineage
    leads = isinstance(folder, RunDir)
    session = Session(folder, started, progress.step, **facts) if leads else Unrecorded()
    with session.failures_noted():
        training = PhaseRunner(around, experiment, evaluator, checkpoints, progress, stack)
        outcome = training.run(state, progress, compiled, num_parameters)
        session.end(outcome.status, dataclasses.asdict(outcome.progress))
    return Result(outcome.status, outcome.progress, ran=True)


def _check_traced(profile_steps: tuple[int, int] | None, total_steps: int) -> None:
    if profile_steps is not None and profile_steps[0] >= total_steps:
        raise ConfigError(
            f"--profile_steps begins after step {profile_steps[0]}, but the run has only "
            f"{total_steps}; give earlier ones."
        )


def _in_words(experiment: Experiment, num_parameters: int) -> str:
    """What is trained on what, how long and by which devices."""
    config, plan = experiment.config, experiment.plan
    extent = f"{counted(plan.num_epochs, 'epoch')} of {counted(plan.steps_per_epoch, 'step')}"
    if experiment.fits:
        extent = f"fitted at {counted(plan.num_epochs, 'strength')} of the penalty"
    num_images = len(experiment.train_loader.sampler.indices)
    return (
        f"Training {config.model.name} ({counted(num_parameters, 'parameter')}) on "
        f"{config.data.name}: {counted(num_images, 'image')}, {extent}, "
        f"{describe_loader(experiment)}, on {devices_in_words(experiment.mesh.num_devices)}"
        f"{describe_mesh(experiment.mesh)}"
    )


def describe_loader(experiment: Experiment) -> str:
    """By what a training is fed."""
    parts = ", a part on each device" if experiment.config.data.loader == "sharded" else ""
    return f"{experiment.train_loader.name}{parts}"


def describe_mesh(mesh: DeviceMesh) -> str:
    """How devices share a state, where it is not whole on each of them."""
    slices = mesh.device_grid.shape[SLICE_AXIS]
    parts = ", a part of the state on each" if mesh.shards_state else ""
    return parts + (f", in {slices} slices" if slices > 1 else "")


def _begun_or_restored(
    checkpoints: Checkpoints, experiment: Experiment, workdir: Path, log: Callable[[str], None]
) -> tuple[TrainState, Progress]:
    """Where the run stood, or where it begins."""

    def target(record: Mapping[str, Any]) -> TrainState:
        phase = Progress.from_json(record["progress"]).phase
        return experiment.mesh.with_shardings(experiment.state_shapes(phase))

    restored = checkpoints.restore_newest_good(target, workdir / DAMAGED)
    if restored is not None:
        state, progress = restored[0], Progress.from_json(restored[1]["progress"])
        log(f"Resuming {workdir} from step {progress.step}.")
        return state, progress
    if (workdir / DAMAGED).exists():
        raise missing_checkpoints(workdir)
    return experiment.begin(experiment.config.seed), Progress()
