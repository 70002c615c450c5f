"""One training in its folder: resumes, compiles, records, and runs phase after phase."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import jax

from cnn_lab.compiled import CompiledPhase
from cnn_lab.core import trees
from cnn_lab.core.errors import CnnLabError, ConfigError
from cnn_lab.core.numbers import counted
from cnn_lab.core.processes import Processes
from cnn_lab.core.typed import to_dict
from cnn_lab.experiment import Experiment
from cnn_lab.logistic import FittedOutput
from cnn_lab.optim.assemble import with_rate_scale
from cnn_lab.optim.complexity import weight_complexity
from cnn_lab.train.averaging import evaluated_variables
from cnn_lab.train.checkpoint import Checkpoints
from cnn_lab.train.followers import FollowedWorkdir, Unrecorded, Unseen
from cnn_lab.train.log import (
    METRICS_FILE,
    Sink,
    forget_validation,
    open_sinks,
)
from cnn_lab.train.loop import Judgement, Outcome, Progress, train
from cnn_lab.train.profiling import Profile
from cnn_lab.train.progress import make_display
from cnn_lab.train.session import Session, devices_in_words, environment
from cnn_lab.train.signals import StopSignals
from cnn_lab.train.state import TrainState
from cnn_lab.train.watchdog import HANG_SECONDS, Watchdog
from cnn_lab.train.workdir import (
    CHECKPOINTS,
    DAMAGED,
    Workdir,
    missing_checkpoints,
)
from cnn_lab.transfer.logistic import STRENGTHS


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


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What a training has to do with besides its experiment.

    Attributes:
        processes: that train together.
        folder: of the run.
        say: takes lines for the user.
        sinks: where metric rows go besides the ones that the config asks for.
        signals: Ctrl-C and SIGTERM.
        profile_steps: updates made when a trace begins and when it ends, None without one.
    """

    processes: Processes
    folder: Workdir | FollowedWorkdir
    say: Callable[[str], None]
    sinks: Sequence[Sink]
    signals: StopSignals
    profile_steps: tuple[int, int] | None


def train_in(around: Surroundings, experiment: Experiment, stack: ExitStack) -> Result:
    """Trains an experiment from the newest checkpoint in its folder.

    Args:
        around: the folder, and who takes part and watches.
        experiment: built, not begun.
        stack: gets what is to be closed at the end.

    Raises:
        CnnLabError: anything that the user can mend; nothing already saved is lost.
    """
    processes, folder, say = around.processes, around.folder, around.say
    signals, config = around.signals, experiment.config
    layout, started, traced = experiment.layout, environment(), around.profile_steps
    if traced is not None and traced[0] >= experiment.plan.total_steps:
        raise ConfigError(
            f"--profile_steps begins after step {traced[0]}, but the run has only "
            f"{experiment.plan.total_steps}; give earlier ones."
        )
    checkpoints = Checkpoints(
        folder.path / CHECKPOINTS, keep_latest=config.checkpoint.keep_latest, processes=processes
    )
    stack.callback(checkpoints.release)
    restored = _restore(checkpoints, experiment, folder.path)
    if restored:
        state, progress = restored
        say(f"Resuming {folder.path} from step {progress.step}.")
    else:
        state, progress = experiment.begin(config.seed), Progress()
    if experiment.beginning is not None:
        params = evaluated_variables(experiment.state_shapes())["params"]
        for line in experiment.beginning.told(params, config.optim.learning_rate):
            say(line)
    for note in experiment.notes:
        say(note)
    experiment = experiment.with_features(state, say)
    pipeline = experiment.train_pipeline
    first_step, plan = progress.step, experiment.plan
    if experiment.fits:
        compiled = FittedOutput(experiment, say)
    else:
        compiled = CompiledPhase(experiment, progress.phase)
    evaluator, compile_seconds = experiment.evaluator(), compiled.compile_seconds
    variables = evaluated_variables(experiment.state_shapes(progress.phase))
    if evaluator is not None:
        shapes = layout.placed(variables)
        compile_seconds += evaluator.compile(shapes).compile_seconds
    num_parameters = trees.count(variables["params"])
    processes.wait()  # so that a signal to all finds all either before the training or in it
    extent = f"{counted(plan.num_epochs, 'epoch')} of {counted(plan.steps_per_epoch, 'step')}"
    if experiment.fits:
        extent = f"fitted at {counted(plan.num_epochs, 'strength')} of the penalty"
    say(
        f"Training {config.model.name} ({counted(num_parameters, 'parameter')}) on "
        f"{config.data.name}: {counted(len(pipeline.order.indices), 'image')}, {extent}, "
        f"{pipeline_in_words(experiment)}, on {devices_in_words(layout.num_devices)}; compiled in "
        f"{compile_seconds:.1f} s."
    )
    signals.begin()
    folder.claim(config)
    facts = {
        "config": to_dict(config),
        "fingerprint": experiment.fingerprint,
        "pipeline": pipeline.name,
        "class_names": list(experiment.network.class_names),
        "num_parameters": num_parameters,
        "compile_seconds": compile_seconds,
    }
    if experiment.beginning is not None:
        facts["transfer"] = experiment.beginning.lineage
    leads = isinstance(folder, Workdir)
    session = Session(folder, started, first_step, **facts) if leads else Unrecorded()
    with session.failures_noted():
        sinks, display, profile = list(around.sinks), Unseen(say), None
        if leads:
            if progress.evaluation_owed:
                forget_validation(folder.path / METRICS_FILE, first_step)
            sinks += open_sinks(config, folder, first_step)
            display = make_display(plan.total_steps, first_step, say)
            if traced is not None:
                profile = Profile(*traced, folder.path, display.say)
                stack.callback(profile.close)
        for sink in sinks:
            stack.callback(sink.close)
        stack.callback(display.close)

        def asked() -> bool:
            watchdog.beat()
            # A signal that one of several processes alone has got must not end what all do.
            return processes.count == 1 and signals.received()

        def evaluate(state: TrainState) -> dict[str, float]:
            assert evaluator is not None
            variables = evaluated_variables(state)
            values = evaluator(variables, asked)
            if config.evaluate.weight_complexity:
                counts = jax.device_get(weight_complexity(variables["params"]))
                values |= {f"weights_{name}": float(count) for name, count in counts.items()}
            return values

        def train_phase(
            state: TrainState, progress: Progress, compiled: CompiledPhase | FittedOutput
        ) -> Outcome:
            return train(
                state,
                progress,
                plan=dataclasses.replace(
                    plan,
                    end_step=compiled.phase.end_step,
                    watched_at=traced or (),
                ),
                feeder=compiled.feeder,
                program=compiled.program,
                layout=layout,
                judgement=Judgement(
                    evaluate if evaluator else None,
                    experiment.named.selection,
                    compiled.settle,
                    experiment.named.plateau,
                    _with_rate_scale,
                ),
                learning_rate=compiled.learning_rate,
                checkpoints=checkpoints,
                about=experiment.network.about(),
                sinks=sinks,
                display=display,
                interrupted=signals.received,
                diagnose=lambda state, step: experiment.explain_non_finite(
                    state, step, _saved(checkpoints)
                ),
                went_on=watchdog.beat,
                watch=profile or (lambda _: None),
            )

        bound = config.mesh.hang_seconds or (HANG_SECONDS if processes.count > 1 else None)
        watchdog = stack.enter_context(Watchdog(bound, processes.hangs))
        outcome = train_phase(state, progress, compiled)
        while outcome.status == "phase ended":
            outcome.progress.phase += 1
            compiled = CompiledPhase(experiment, outcome.progress.phase)
            watchdog.beat()
            state = compiled.enter(outcome.state)
            number = trees.count(state.params)
            display.say(
                f"From step {outcome.progress.step + 1} {counted(number, 'parameter')} of "
                f"{num_parameters:,} are trained; compiled in {compiled.compile_seconds:.1f} s."
            )
            outcome = train_phase(state, outcome.progress, compiled)
        if experiment.fits and outcome.progress.selection.best_step:
            strength = STRENGTHS[outcome.progress.selection.best_step - 1]
            display.say(f"The best strength of the penalty is C={strength:g}.")
        session.end(outcome.status, dataclasses.asdict(outcome.progress))
    return Result(outcome.status, outcome.progress, ran=True)


def pipeline_in_words(experiment: Experiment) -> str:
    """By what a training is fed."""
    parts = ", a part on each device" if experiment.config.data.pipeline == "sharded" else ""
    return f"{experiment.train_pipeline.name}{parts}"


def _restore(
    checkpoints: Checkpoints, experiment: Experiment, workdir: Path
) -> tuple[TrainState, Progress] | None:
    """Where the run stood, None when it is to begin."""

    def target(record: Mapping[str, Any]) -> TrainState:
        phase = Progress.from_json(record["progress"]).phase
        return experiment.layout.placed(experiment.state_shapes(phase))

    restored = checkpoints.restore_newest_good(target, workdir / DAMAGED)
    if restored is not None:
        return restored[0], Progress.from_json(restored[1]["progress"])
    if (workdir / DAMAGED).exists():
        raise missing_checkpoints(workdir)
    return None


def _with_rate_scale(state: TrainState, scale: float) -> TrainState:
    if scale == 1:  # as it was begun; only an optimizer whose rate is reduced has a place for it
        return state
    return state.replace(opt_state=with_rate_scale(state.opt_state, scale))


def _saved(checkpoints: Checkpoints) -> str:
    """A clause on the checkpoints of a run that is about to fail."""
    with suppress(CnnLabError):
        checkpoints.wait()
        if checkpoints.steps():
            return "the checkpoints saved before are intact."
    return "no checkpoint had been saved before."
