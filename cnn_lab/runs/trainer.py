"""What a training has around it while it runs, phase after phase."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

import jax

from cnn_lab.checkpoint.writer import Checkpoints
from cnn_lab.core import trees
from cnn_lab.core.arrays import Tree
from cnn_lab.core.errors import CnnLabError
from cnn_lab.core.formatting import counted
from cnn_lab.distributed.processes import Processes
from cnn_lab.distributed.watchdog import HANG_SECONDS, Watchdog
from cnn_lab.experiment.experiment import Experiment
from cnn_lab.optim.assemble import with_rate_scale
from cnn_lab.optim.kernels import weight_complexity
from cnn_lab.runs.compiled import CompiledPhase
from cnn_lab.runs.linear_probe import FittedOutput
from cnn_lab.train.averaging import evaluated_variables
from cnn_lab.train.loop import Judgement, Outcome, Progress, train
from cnn_lab.train.state import TrainState
from cnn_lab.transfer.logistic import STRENGTHS
from cnn_lab.workdir.metric_writers import (
    METRICS_FILE,
    MetricWriter,
    forget_validation,
    open_metric_writers,
)
from cnn_lab.workdir.preemption import StopSignals
from cnn_lab.workdir.profiling import Profile
from cnn_lab.workdir.progress_bar import make_display
from cnn_lab.workdir.run_dir import RunDir
from cnn_lab.workdir.secondary_process import FollowedWorkdir, Unseen


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What a training has to do with besides its experiment.

    Attributes:
        processes: that train together.
        folder: of the run.
        log: takes lines for the user.
        metric_writers: where metric rows go besides the ones that the config asks for.
        signals: Ctrl-C and SIGTERM.
        profile_steps: updates made when a trace begins and when it ends, None without one.
    """

    processes: Processes
    folder: RunDir | FollowedWorkdir
    log: Callable[[str], None]
    metric_writers: Sequence[MetricWriter]
    signals: StopSignals
    profile_steps: tuple[int, int] | None


class PhaseRunner:
    """What a training runs with besides its state: programs, outputs, and a watchdog.

    Args:
        around: as `train_in` of `cnn_lab.runs.training` takes it.
        experiment: as `train_in` of `cnn_lab.runs.training` takes it.
        evaluator: (variables, whether to give up) -> metrics; None where nothing is held out.
        checkpoints: of the run.
        progress: where it goes on.
        stack: gets what is to be closed at the end.
    """

    def __init__(
        self,
        around: Surroundings,
        experiment: Experiment,
        evaluator: Callable[[Tree, Callable[[], bool]], dict[str, float]] | None,
        checkpoints: Checkpoints,
        progress: Progress,
        stack: ExitStack,
    ):
        self._around, self._experiment, self._evaluator = around, experiment, evaluator
        self._checkpoints, folder, config = checkpoints, around.folder, experiment.config
        self._sinks, self._display, self._profile = (
            list(around.metric_writers),
            Unseen(around.log),
            None,
        )
        if isinstance(folder, RunDir):
            if progress.eval_pending:
                forget_validation(folder.path / METRICS_FILE, progress.step)
            self._sinks += open_metric_writers(config, folder, progress.step)
            self._display = make_display(experiment.plan.total_steps, progress.step, around.log)
            if around.profile_steps is not None:
                self._profile = Profile(*around.profile_steps, folder.path, self._display.log)
                stack.callback(self._profile.close)
        for sink in self._sinks:
            stack.callback(sink.close)
        stack.callback(self._display.close)
        together = around.processes.count > 1
        bound = config.mesh.hang_seconds or (HANG_SECONDS if together else None)
        self._watchdog = stack.enter_context(Watchdog(bound, around.processes.hangs))

    def run(
        self,
        state: TrainState,
        progress: Progress,
        compiled: CompiledPhase | FittedOutput,
        num_parameters: int,
    ) -> Outcome:
        """Trains phase after phase."""
        outcome = self._phase(state, progress, compiled)
        while outcome.status == "phase ended":
            outcome.progress.phase += 1
            compiled = CompiledPhase(self._experiment, outcome.progress.phase)
            self._watchdog.heartbeat()
            state = compiled.enter(outcome.state)
            number = trees.count(state.params)
            self._display.log(
                f"From step {outcome.progress.step + 1} {counted(number, 'parameter')} of "
                f"{num_parameters:,} are trained; compiled in {compiled.compile_seconds:.1f} s."
            )
            outcome = self._phase(state, outcome.progress, compiled)
        if self._experiment.fits and outcome.progress.selection.best_step:
            strength = STRENGTHS[outcome.progress.selection.best_step - 1]
            self._display.log(f"The best strength of the penalty is C={strength:g}.")
        return outcome

    def _phase(
        self, state: TrainState, progress: Progress, compiled: CompiledPhase | FittedOutput
    ) -> Outcome:
        experiment = self._experiment
        return train(
            state,
            progress,
            plan=dataclasses.replace(
                experiment.plan,
                end_step=compiled.phase.end_step,
                watched_at=self._around.profile_steps or (),
            ),
            loader=compiled.loader,
            program=compiled.program,
            mesh=experiment.mesh,
            judgement=Judgement(
                self._evaluate if self._evaluator else None,
                experiment.named.selection,
                functools.partial(compiled.update_batch_stats, heartbeat=self._watchdog.heartbeat),
                experiment.named.plateau,
                _with_rate_scale,
            ),
            learning_rate=compiled.learning_rate,
            checkpoints=self._checkpoints,
            metadata=experiment.network.metadata(),
            metric_writers=self._sinks,
            display=self._display,
            interrupted=self._around.signals.received,
            diagnose=lambda state, step: experiment.explain_non_finite(
                state, step, _saved(self._checkpoints)
            ),
            heartbeat=self._watchdog.heartbeat,
            watch=self._profile or (lambda _: None),
        )

    def _evaluate(self, state: TrainState) -> dict[str, float]:
        assert self._evaluator is not None
        variables = evaluated_variables(state)
        values = self._evaluator(variables, self._asked)
        if self._experiment.config.evaluate.weight_complexity:
            counts = jax.device_get(weight_complexity(variables["params"]))
            values |= {f"weights_{name}": float(count) for name, count in counts.items()}
        return values

    def _asked(self) -> bool:
        """Whether someone asked any of the processes to stop."""
        self._watchdog.heartbeat()
        return any(self._around.processes.all_gather(self._around.signals.received()))


def _with_rate_scale(state: TrainState, scale: float) -> TrainState:
    if scale == 1:  # as it was begun; only an optimizer whose rate is reduced has a place for it
        return state
    return state.replace(opt_state=with_rate_scale(state.opt_state, scale))


def _saved(checkpoints: Checkpoints) -> str:
    """A clause on the checkpoints of a run that is about to fail."""
    steps: list[int] = []
    with suppress(CnnLabError):
        checkpoints.wait()
    with suppress(CnnLabError):  # also where this process alone has failed: all ask together
        steps = checkpoints.steps()
    if steps:
        return "the checkpoints saved before are intact."
    return "no checkpoint had been saved before."
