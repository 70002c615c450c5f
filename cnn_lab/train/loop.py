"""The training loop: fetch, run, maybe log, maybe evaluate, maybe save."""

import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import numpy as np

from cnn_lab.core.arrays import Tree
from cnn_lab.distributed.consensus import Consensus
from cnn_lab.distributed.mesh import DeviceMesh
from cnn_lab.train.dispatch import Program
from cnn_lab.train.early_stopping import Selection, SelectionRecord, update
from cnn_lab.train.evaluate import EvaluationInterrupted
from cnn_lab.train.plan import Plan
from cnn_lab.train.plateau import Plateau, PlateauRecord, after
from cnn_lab.train.state import TrainState
from cnn_lab.train.steps_per_call import StepsPerCall
from cnn_lab.workdir.metric_writers import MetricWriter
from cnn_lab.workdir.progress_bar import Display, Stopwatch


@runtime_checkable
class Checkpointer(Protocol):
    """Saves the state of a run."""

    def save(self, state: TrainState, record: dict[str, Any], *, best_step: int | None) -> None:
        """Saves in the background."""
        ...

    def amend(self, step: int, record: dict[str, Any], *, best_step: int | None) -> None:
        """Replaces the record of a checkpoint."""
        ...

    def steps(self) -> list[int]:
        """Steps of the checkpoints that there are."""
        ...

    def wait(self) -> None:
        """Returns when everything is on disk."""
        ...


@runtime_checkable
class Loader(Protocol):
    """What the loop needs of an input pipeline."""

    in_memory: Tree
    max_steps: int

    def load(self, first_step: int, num_steps: int) -> Tree:
        """Feeds of the steps [first_step, first_step + num_steps), stacked to `max_steps`."""
        ...


@dataclasses.dataclass
class Progress:
    """What continues a run, beside the `TrainState`; saved in every checkpoint.

    Attributes:
        step: updates made.
        sums: training metrics since the last row, name -> [sum, count].
        selection: best value so far and patience used up.
        plateau: what the learning rate was lowered to, and patience used up.
        seconds: wall time of training steps, evaluations and saves left out, over all sessions.
        eval_pending: this step's evaluation was interrupted, and is what comes next.
        phase: the part of the run that it is in (`train/phases.py`).
    """

    step: int = 0
    sums: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    selection: SelectionRecord = dataclasses.field(default_factory=SelectionRecord)
    plateau: PlateauRecord = dataclasses.field(default_factory=PlateauRecord)
    seconds: float = 0.0
    eval_pending: bool = False
    phase: int = 0

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Progress":
        """Reads back `dataclasses.asdict`."""
        selection = SelectionRecord(**values["selection"])
        plateau = PlateauRecord.from_json(
            values.get("plateau", dataclasses.asdict(PlateauRecord()))
        )
        return cls(**{**values, "selection": selection, "plateau": plateau})


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What is looked at after epochs, and what follows from it.

    Attributes:
        evaluate: validation metrics of a state, or `EvaluationInterrupted`; None when nothing is
            held out.
        selection: which weights are the best, and when to give up.
        update_batch_stats: measures the statistics of averaged weights before an evaluation or
            a save.
        plateau: when the learning rate is lowered; None never does.
        with_rate_scale: (state, factor of the learning rate) -> state.
    """

    evaluate: Callable[[TrainState], dict[str, float]] | None
    selection: Selection
    update_batch_stats: Callable[[TrainState], TrainState] = lambda state: state
    plateau: Plateau | None = None
    with_rate_scale: Callable[[TrainState, float], TrainState] = lambda state, _: state


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    status: Literal["finished", "stopped early", "interrupted", "phase ended"]
    state: TrainState
    progress: Progress


def train(
    state: TrainState,
    progress: Progress,
    *,
    plan: Plan,
    loader: Loader,
    program: Program,
    mesh: DeviceMesh,
    judgement: Judgement,
    learning_rate: Callable[[int], float],
    checkpoints: Checkpointer,
    metadata: Mapping[str, Any],
    metric_writers: Iterable[MetricWriter],
    display: Display,
    interrupted: Callable[[], bool],
    diagnose: Callable[[TrainState, int], Exception],
    heartbeat: Callable[[], None] = lambda: None,
    watch: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Runs until the plan is done, its part ends, the selection rule says stop, or `interrupted()`.

    Args:
        state: given away; the outcome holds the last one.
        progress: where to continue.
        plan: when to log, evaluate and save.
        loader: the training data.
        program: from `compile_train`.
        mesh: where the program wants its arguments.
        judgement: what is looked at after epochs.
        learning_rate: step -> rate, for the rows.
        checkpoints: where to save.
        metadata: JSON values that go into every checkpoint.
        metric_writers: where rows go.
        display: what is shown meanwhile.
        interrupted: whether someone asked to stop; then the state is saved first.
        diagnose: (state before the bad step, bad step) -> the error to raise.
        heartbeat: called whenever a call has ended.
        watch: told the updates made where the plan says so, when nothing runs.
    """
    evaluate, selection, plateau = judgement.evaluate, judgement.selection, judgement.plateau
    stopwatch, steps_per_call = Stopwatch(), StepsPerCall(loader.max_steps)
    consensus, fitting = Consensus(mesh, interrupted), 1
    pending: deque[tuple[int, int, float, Tree, Tree]] = deque()
    settled = progress.step  # the state of every checkpoint was

    def collect(leave: int) -> None:
        """Adds up finished calls' metrics; one call is left running while the next is prepared."""
        nonlocal fitting
        while len(pending) > leave:
            first, num_steps, called, history, agreed = pending.popleft()
            steps = _per_step(jax.device_get(history), num_steps)
            heartbeat()
            fitting = steps_per_call.fitting(num_steps, called, time.perf_counter())
            steps_per_call.adopt(consensus.agreed(agreed, fitting))
            stopwatch.count(sum(metrics["loss"][1] for metrics in steps))
            for index, metrics in enumerate(steps):
                if not all(math.isfinite(total) and count for total, count in metrics.values()):
                    raise diagnose(state, first + index)
                for name, (total, count) in metrics.items():
                    sums = progress.sums.setdefault(name, [0.0, 0.0])
                    sums[0] += total
                    sums[1] += count
            means = {name: total / count for name, (total, count) in progress.sums.items()}
            display.advance(first + num_steps, (first + num_steps) / plan.steps_per_epoch, means)

    def write(split: str, values: Mapping[str, float]) -> None:
        epoch = progress.step / plan.steps_per_epoch
        row = {"step": progress.step, "epoch": epoch, "split": split, **values}
        for sink in metric_writers:
            sink.write(row)
        display.row(row)

    def look(evaluate: Callable[[TrainState], dict[str, float]]) -> None:
        """Evaluates, or leaves the evaluation to the next session."""
        nonlocal state
        progress.eval_pending = True
        try:
            values = evaluate(state)
        except EvaluationInterrupted:
            consensus.stop()
            return
        progress.eval_pending = False
        write("validation", values)
        value, epoch = values[selection.metric], progress.step // plan.steps_per_epoch
        place = {"step": progress.step, "epoch": epoch}
        progress.selection = update(progress.selection, selection, value, **place)
        if plateau is not None:
            progress.plateau = after(progress.plateau, plateau, value, **place)
            state = judgement.with_rate_scale(state, progress.plateau.scale)

    def record() -> dict[str, Any]:
        return {"progress": dataclasses.asdict(progress), "metadata": dict(metadata)}

    def update_batch_stats() -> None:
        nonlocal state, settled
        if settled != progress.step:
            state, settled = judgement.update_batch_stats(state), progress.step

    def save() -> None:
        update_batch_stats()
        checkpoints.save(state, record(), best_step=progress.selection.best_step)

    def ended() -> bool:
        if progress.eval_pending:
            return False
        return progress.step >= plan.last_step or progress.selection.stopped

    # An evaluation that was owed may have lowered the rate after its state was saved.
    state = judgement.with_rate_scale(state, progress.plateau.scale)
    if evaluate is not None and progress.eval_pending:
        look(evaluate)
        if not progress.eval_pending:
            checkpoints.amend(progress.step, record(), best_step=progress.selection.best_step)
    while not ended() and not consensus.stops():
        if progress.step in plan.watched_at:
            collect(leave=0)
            watch(progress.step)
        started, first = time.perf_counter(), progress.step
        stop = plan.next_stop(first, steps_per_call.num_steps)
        try:
            raw_batches = loader.load(first, stop - first)
        except Exception:
            if not consensus.stops():
                raise
            break  # the signal ended the readers too
        called = time.perf_counter()
        stopwatch.waited(called - started)
        with jax.transfer_guard("disallow"):
            scalars = mesh.put_replicated((np.int32(first), np.int32(stop - first)))
            raw_batches = mesh.put_batches(raw_batches)
            proposal = consensus.propose(fitting)
            state, history, agreed = program.call(
                state, loader.in_memory, raw_batches, *scalars, proposal
            )
        pending.append((first, stop - first, called, history, agreed))
        progress.step = stop
        collect(leave=0 if plan.logs_at(stop) or plan.saves_at(stop) else 1)
        progress.seconds += time.perf_counter() - started
        if plan.logs_at(stop):
            means = {name: total / count for name, (total, count) in progress.sums.items()}
            rate = stopwatch.examples / stopwatch.seconds
            step_size = learning_rate(stop - 1) * progress.plateau.scale
            write("train", {**means, "learning_rate": step_size, "examples_per_second": rate})
            if complaint := stopwatch.complaint():
                display.log(complaint)
            progress.sums = {}
            stopwatch.restart()
        with stopwatch.stopped():
            if plan.evaluates_at(stop):
                update_batch_stats()
                if evaluate is not None:
                    look(evaluate)
            if plan.saves_at(stop):
                save()
    collect(leave=0)
    if not ended():
        save()
    checkpoints.wait()
    if not ended():
        return Outcome("interrupted", state, progress)
    if progress.selection.stopped and progress.step < plan.total_steps:
        return Outcome("stopped early", state, progress)
    if progress.step < plan.total_steps:
        update_batch_stats()  # the next part begins with what could be saved
        if consensus.stops():  # before the programs of the next part are compiled
            if progress.step not in checkpoints.steps():
                save()
                checkpoints.wait()
            return Outcome("interrupted", state, progress)
        return Outcome("phase ended", state, progress)
    return Outcome("finished", state, progress)


def _per_step(history: Mapping[str, Any], num_steps: int) -> list[dict[str, tuple[float, float]]]:
    """Turns name -> (sums [max_steps], counts [max_steps]) into one dict a step."""
    lists = {n: (sums.tolist(), counts.tolist()) for n, (sums, counts) in history.items()}
    return [
        {name: (sums[index], counts[index]) for name, (sums, counts) in lists.items()}
        for index in range(num_steps)
    ]
