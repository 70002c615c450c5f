"""One training, from a config and a working directory to checkpoints, metrics and a record."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cnn_lab.checkpoint import reader
from cnn_lab.checkpoint.writer import Checkpoints, check_replicas
from cnn_lab.config import ExperimentConfig
from cnn_lab.config.node import to_dict
from cnn_lab.core import trees
from cnn_lab.core.errors import ConfigError, WorkdirError, system_errors_explained
from cnn_lab.core.text import counted
from cnn_lab.data.datasets.catalog import Dataset, check_name, open_dataset
from cnn_lab.distributed.mesh import SLICE_AXIS, DeviceMesh
from cnn_lab.distributed.processes import (
    SINGLE_PROCESS,
    Processes,
    check_same,
    check_same_config,
)
from cnn_lab.distributed.watchdog import HANG_SECONDS, Watchdog
from cnn_lab.experiment.build import build_experiment
from cnn_lab.experiment.components import make_components
from cnn_lab.experiment.experiment import Experiment
from cnn_lab.experiment.initialization import check_same_source, complete_config
from cnn_lab.experiment.outside import check_registered, imported_code, session_parts
from cnn_lab.runs.trainer import CompiledPhase, Trainer
from cnn_lab.training.averaging import evaluated_variables
from cnn_lab.training.progress import Progress
from cnn_lab.training.state import TrainState
from cnn_lab.workdir.metric_writers import MetricWriter, open_metric_writers, require_wandb
from cnn_lab.workdir.preemption import StopSignals
from cnn_lab.workdir.profiling import Profile
from cnn_lab.workdir.run_dir import (
    CHECKPOINTS,
    DAMAGED,
    RunDir,
    Session,
    devices_in_words,
    environment,
    has_checkpoints,
    missing_checkpoints,
    read_record,
)
from cnn_lab.workdir.training_log import DisplayFactory, TrainingLog, make_display

ENDED = ("finished", "stopped early", "averaged")


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run stands.

    Attributes:
        status: `finished`, `stopped early` or `interrupted`.
        metric: the validation metric that the best weights are chosen by.
        progress: steps done, best validation value.
        ran: whether this call trained at all; False on a run that had ended before.
    """

    status: str
    metric: str
    progress: Progress
    ran: bool


def run_training(
    config: ExperimentConfig,
    workdir: Path,
    log: Callable[[str], None],
    metric_writers: Sequence[MetricWriter] = (),
    processes: Processes = SINGLE_PROCESS,
    profile_steps: tuple[int, int] | None = None,
    open_data: Callable[..., Dataset] | None = None,
    make_display: DisplayFactory = make_display,
) -> Result:
    """Trains what `config` describes in `workdir`, from the newest checkpoint there.

    Args:
        config: the experiment.
        workdir: the run's folder, made when missing.
        log: takes lines for the user.
        metric_writers: of rows, besides the ones that the config asks for.
        processes: that train together, all of which call this alike.
        profile_steps: updates made when a trace begins and when it ends.
        open_data: (name, data_dir) -> data set; by default `open_dataset`.
        make_display: (total steps, first step, log) -> progress bar or lines.

    Raises:
        CnnLabError: anything that the user can mend; nothing already saved is lost.
    """
    if config.log.wandb_project is not None:
        require_wandb()
    if config.transfer is not None:
        config = complete_config(config)
    # A source may lie elsewhere for another process: its weights are compared.
    check_same_config(processes, to_dict(config), exempt=("config.transfer.source",))
    check_registered(config, workdir)
    components = make_components(config)  # a typo is no difference to an earlier config
    code = imported_code(config)
    modules = {f"code of {name}": d for name, d in code["import_digests"].items()}
    check_same(processes, modules, "let all of them import the same modules, or copies of them")
    with system_errors_explained(workdir), ExitStack() as stack:
        try:
            run_dir = RunDir(workdir, config, processes)
        except WorkdirError:  # a typo in the name of the data is no difference either
            check_name(config.data.name, config.data.data_dir)
            raise
        stack.callback(run_dir.release)
        signals = stack.enter_context(StopSignals(earlier=not run_dir.fresh))
        record = processes.broadcast({} if run_dir.fresh else read_record(workdir))
        if record and not processes.broadcast(has_checkpoints(workdir)):
            raise missing_checkpoints(workdir)
        lineage = record.get("transfer")
        if lineage is not None:
            check_same_source(config, lineage, workdir, processes)
        if record.get("status") in ENDED:
            progress = Progress.from_json(record["progress"])
            return Result(record["status"], components.selection.metric, progress, ran=False)
        open_data = open_data or functools.partial(open_dataset, progress=log)
        experiment = build_experiment(config, open_data, components=components, lineage=lineage)
        for loader in experiment.loaders():
            stack.callback(loader.close)
        fingerprint = {"fingerprint of its data": experiment.fingerprint}
        check_same(
            processes, fingerprint, "let all of them read the same data set, or copies of it"
        )
        initialization = experiment.initialization
        if initialization is not None:
            digest = initialization.lineage["digest"]
            remedy = "let all of them read the same source, or copies of it"
            check_same(processes, {"source of its weights": digest}, remedy)
        _check_resumes(experiment, record, workdir)
        _warn_about_code(config, code, record, log)
        if profile_steps is not None and profile_steps[0] >= experiment.intervals.total_steps:
            problem = (
                f"--profile_steps begins after step {profile_steps[0]}, but the run has only "
                f"{experiment.intervals.total_steps}; give earlier ones."
            )
            raise ConfigError(problem, where="--profile_steps", found=profile_steps)
        started = environment()
        checkpoints = Checkpoints(
            workdir / CHECKPOINTS, keep_latest=config.checkpoint.keep_latest, processes=processes
        )
        stack.enter_context(checkpoints)
        state, progress = _restore_or_init(checkpoints, experiment, workdir, log)
        if initialization is not None:
            params = evaluated_variables(experiment.state_shapes())["params"]
            for line in initialization.describe(params, config.optim.learning_rate):
                log(line)
            if not experiment.is_linear_probe:
                log(_describe_recipe(config))
        for note in experiment.notes:
            log(note)
        if processes.count > 1:
            digests = trees.digests(reader.to_storable(state))
            check_replicas(processes, digests, progress.step)
        experiment.load_features(state, log)
        hang_seconds = config.mesh.hang_seconds or (HANG_SECONDS if processes.count > 1 else None)
        watchdog = Watchdog(hang_seconds, processes.abort)
        evaluator = experiment.evaluator()
        variables = evaluated_variables(experiment.state_shapes(progress.phase))
        shapes = experiment.mesh.with_shardings(variables)
        start = time.perf_counter()
        # The first evaluation comes after the first step, so its program is compiled meanwhile; not
        # where waiting for it could be taken for a hang.
        validation = None if evaluator is None else evaluator.compile(shapes)
        phase = None
        if not experiment.is_linear_probe:
            phase = CompiledPhase(experiment, progress.phase, watchdog.heartbeat)
        if validation is not None and (hang_seconds is not None or validation.done()):
            validation.result()  # raises what failed
        compile_seconds = time.perf_counter() - start  # until the first step can run
        num_parameters = trees.count(variables["params"])
        # So that a signal to all processes finds all either before the training or in it.
        processes.barrier()
        described = _describe(experiment, num_parameters)
        log(f"{described}; compiled in {compile_seconds:.1f} s until the first step.")
        signals.begin()
        run_dir.claim(config)
        session = Session(
            run_dir,
            started,
            progress.step,
            config=to_dict(config),
            **code,
            fingerprint=experiment.fingerprint,
            loader=experiment.train_loader.name,
            target=dataclasses.asdict(experiment.network.target),
            selection_metric=components.selection.metric,
            num_parameters=num_parameters,
            compile_seconds=compile_seconds,
            **(
                {"transfer": experiment.initialization.lineage} if experiment.initialization else {}
            ),
        )
        with session.failures_recorded():
            training_log = _open_training_log(
                experiment, run_dir, progress, metric_writers, log, make_display
            )
            stack.callback(training_log.close)
            hooks: list[Callable[[int], None]] = []
            if profile_steps is not None and run_dir.is_primary:
                profile = Profile(*profile_steps, workdir, training_log.log)
                stack.callback(profile.close)
                hooks.append(profile)
            trainer = Trainer(
                experiment,
                evaluator,
                checkpoints,
                training_log,
                processes,
                signals,
                stack.enter_context(watchdog),
                hook_steps=profile_steps or (),
                hooks=hooks,
            )
            if phase is None:
                outcome = trainer.fit_linear_probe(state, progress)
            else:
                outcome = trainer.train(state, progress, phase, num_parameters)
            ended = dataclasses.asdict(outcome.progress)
            session.update(outcome.status, ended["step"], progress=ended)
        return Result(outcome.status, components.selection.metric, outcome.progress, ran=True)


def _check_resumes(experiment: Experiment, record: Mapping[str, Any], workdir: Path) -> None:
    """Refuses to resume on other data, or on crops that another loader draws."""
    if record.get("fingerprint", experiment.fingerprint) != experiment.fingerprint:
        problem = (
            f"The data of {experiment.config.data.name} changed since {workdir} was begun; bring "
            "the old data back or give another --workdir."
        )
        raise WorkdirError(problem, where="--workdir", found=str(workdir))
    loader = experiment.train_loader.name
    before = record.get("loader", loader)
    if experiment.components.augmentation.crops and before != loader:
        problem = (
            f"{workdir} was begun with config.data.loader={before}, which draws other random "
            f"crops than {loader}; go on with {before}, or give another --workdir."
        )
        raise WorkdirError(problem, where="config.data.loader", found=loader, allowed=before)


def _warn_about_code(
    config: ExperimentConfig,
    code: Mapping[str, Any],
    record: Mapping[str, Any],
    log: Callable[[str], None],
) -> None:
    """Warns of parts that no other process can import, and of code that is another than before."""
    if parts := session_parts(config):
        log(
            f"Warning: registered in this session: {parts}; other sessions and commands cannot "
            "open the run until it is put in a module."
        )
    earlier, digests = record.get("import_digests", {}), code["import_digests"]
    changed = [name for name in digests if earlier.get(name, digests[name]) != digests[name]]
    if changed:
        log(
            f"Warning: the code of {', '.join(changed)} changed since the last steps of this run, "
            "which goes on by other code than it began with."
        )


def _restore_or_init(
    checkpoints: Checkpoints, experiment: Experiment, workdir: Path, log: Callable[[str], None]
) -> tuple[TrainState, Progress]:
    """The newest state of the run, or its first one."""

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
    return experiment.init_state(experiment.config.seed), Progress()


def _open_training_log(
    experiment: Experiment,
    run_dir: RunDir,
    progress: Progress,
    metric_writers: Sequence[MetricWriter],
    log: Callable[[str], None],
    make_display: DisplayFactory,
) -> TrainingLog:
    """The log of a training; in all processes but the primary one it writes and shows nothing."""
    intervals, writers, display = experiment.intervals, list(metric_writers), None
    if run_dir.is_primary:
        writers += open_metric_writers(
            experiment.config, run_dir, progress.step, eval_pending=progress.eval_pending
        )
        display = make_display(intervals.total_steps, progress.step, log)
    return TrainingLog(writers, display, log, intervals.steps_per_epoch)


def _describe(experiment: Experiment, num_parameters: int) -> str:
    """Model, data, extent and devices of a training, in words."""
    config, intervals = experiment.config, experiment.intervals
    extent = (
        f"{counted(intervals.num_epochs, 'epoch')} of {counted(intervals.steps_per_epoch, 'step')}"
    )
    if experiment.is_linear_probe:
        extent = f"fitted at {counted(intervals.num_epochs, 'strength')} of the penalty"
    num_images = len(experiment.train_loader.sampler.indices)
    return (
        f"Training {config.model.name} ({counted(num_parameters, 'parameter')}) on "
        f"{config.data.name}: {counted(num_images, 'image')}, {extent}, "
        f"{describe_loader(experiment)}, on {devices_in_words(experiment.mesh.num_devices)}"
        f"{describe_mesh(experiment.mesh)}"
    )


def _describe_recipe(config: ExperimentConfig) -> str:
    """How the weights of a source are trained further, in words."""
    optim = config.optim
    return (
        f"Recipe: {optim.name} at a rate of {optim.learning_rate:g}, {optim.schedule.name}, "
        f"{counted(config.train.num_epochs, 'epoch')}, batches of {config.train.batch_size}, "
        f"augmentation {config.data.augment.strength}."
    )


def describe_loader(experiment: Experiment) -> str:
    """The loader of the training examples, in words."""
    parts = ", a part on each device" if experiment.config.data.loader == "sharded" else ""
    return f"{experiment.train_loader.name}{parts}"


def describe_mesh(mesh: DeviceMesh) -> str:
    """How devices share a state, where it is not whole on each of them."""
    slices = mesh.device_grid.shape[SLICE_AXIS]
    parts = ", a part of the state on each" if mesh.shards_state else ""
    return parts + (f", in {slices} slices" if slices > 1 else "")
