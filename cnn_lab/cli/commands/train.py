"""Trains the network that an experiment file describes.

The same command again resumes a run that was interrupted, and says so when it had ended. Any field
of the config can be overridden (`cnn-lab help config` lists them); `none` clears an optional one.

With --seeds=N the experiment is trained N times, from its seed on, and the runs are compared: mean,
standard deviation, interval, and a picture. A seed that diverges is noted in its folder; the others
are trained and compared, and the status is 2.

Several processes, on one machine or many, train as one: each gets the same command, and
--coordinator, --num_processes and --process_id, or --cluster where the cluster's environment says
that.

Examples:
  cnn-lab train --config=experiments/digits/lenet5.py
  cnn-lab train --config=experiments/digits/lenet5.py --seeds=5
  cnn-lab train --config=experiments/mnist/lenet5.py --config.optim.learning_rate=0.05
  cnn-lab train --config=experiments/mnist/lenet5.py --config.early_stopping.patience=3 --dry_run
  cnn-lab train --config=runs/a/config.json --workdir=runs/b
"""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from cnn_lab.cli import joining, runtime
from cnn_lab.cli.config_flag import default_workdir
from cnn_lab.cli.main import Invocation
from cnn_lab.cli.runtime import log_if_read as log
from cnn_lab.config import NO_DATA, ExperimentConfig
from cnn_lab.config.load import load_config, split_reference
from cnn_lab.config.node import freeze
from cnn_lab.core.errors import ConfigError

if TYPE_CHECKING:
    from cnn_lab.runs.train import Result


def define_flags(values: flags.FlagValues) -> None:
    """Declares the flags of this command."""
    flags.DEFINE_string(
        "config",
        None,
        "experiment file FILE.py[:ARGUMENT], or a run's config.json",
        flag_values=values,
    )
    flags.DEFINE_string(
        "workdir",
        None,
        "folder of the run; runs/ and the experiment's path by default",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "seeds", None, "runs, each from the next seed; one run by default", flag_values=values
    )
    define_dry_run(values)
    flags.DEFINE_string(
        "profile_steps",
        None,
        "FIRST:LAST, such as 10:15: trace the steps between, for TensorBoard or Perfetto",
        flag_values=values,
    )
    joining.define_flags(values)


def define_dry_run(values: flags.FlagValues) -> None:
    """Declares the flag that only asks."""
    flags.DEFINE_bool(
        "dry_run",
        False,
        "say what would be trained; trains nothing and writes nothing",
        flag_values=values,
    )


def main(invocation: Invocation) -> int:
    """Trains, then says where everything is."""
    reference = invocation.flags.config
    if invocation.arguments:
        found = invocation.arguments[0]
        is_file = found.endswith(".json") or found.partition(":")[0].endswith(".py")
        hint = f"did you mean --config={found}?" if is_file else "see cnn-lab help train."
        raise ConfigError(f"train takes flags only; found {found!r}: {hint}")
    config = freeze(load_config(reference, invocation.overrides))
    require_data(config, reference)
    num_seeds = invocation.flags.seeds
    if num_seeds is not None and num_seeds < 2:
        raise ConfigError(
            f"--seeds must be at least 2; found {num_seeds}. Leave it out for one run, whose seed "
            "is --config.seed."
        )
    count = joining.check(invocation.flags)
    runtime.set_status(invocation.flags.interrupted_status)
    profiled = invocation.flags.profile_steps
    profile_steps = None if profiled is None else parse_steps(profiled)
    if profiled and (num_seeds is not None or invocation.flags.dry_run):
        which = "--dry_run" if invocation.flags.dry_run else "--seeds"
        raise ConfigError(f"--profile_steps traces one training; leave it out, or {which}.")
    if count != 1 and (num_seeds is not None or invocation.flags.dry_run):
        which = "--dry_run" if invocation.flags.dry_run else "--seeds"
        raise ConfigError(f"{which} is for one process; leave it out, or the flags of several.")
    runtime.start(joining.local_devices(config, count))
    processes = joining.join(invocation.flags)
    together = {"num_processes": invocation.flags.num_processes, "profile_steps": profiled}
    joining.check_alike(processes, config, together)
    from cnn_lab.cli.dry_run import dry_run
    from cnn_lab.runs.train import run_training

    if invocation.flags.dry_run:
        log(dry_run(config))
        return 0
    workdir = Path(invocation.flags.workdir or _default_workdir(reference, num_seeds))
    if num_seeds is not None:
        from cnn_lab.study.seeds import train_seeds

        cut = train_seeds(config, workdir, num_seeds, log)
        if cut is not None:
            _tell_how_to_resume(invocation, workdir, cut.progress.step)
        return 0
    tell = log if processes.is_primary else lambda _: None
    result = run_training(
        config,
        workdir,
        tell,
        processes=processes,
        profile_steps=profile_steps,
    )
    interrupted = result.status == "interrupted"
    if interrupted and processes.count > 1:
        tell_how_processes_resume(tell, result.progress.step)
    elif interrupted:
        _tell_how_to_resume(invocation, workdir, result.progress.step)
    elif processes.is_primary:
        tell_where_it_is(config, workdir, result)
    return invocation.flags.interrupted_status if interrupted else 0


def tell_where_it_is(config: ExperimentConfig, workdir: Path, result: "Result") -> None:
    """Writes the page of a run that has ended, and says where everything is."""
    from cnn_lab.report.run import write_report  # half a second for matplotlib, at the end

    progress = result.progress

    report = write_report(workdir)
    best = progress.selection
    log(
        f"{'Run' if result.ran else 'Nothing to do: this run has'} {result.status} "
        f"at step {progress.step}."
    )
    if best.best_value is not None:
        metric = config.selection.metric
        log(f"  best validation {metric}  {best.best_value:.4f} at step {best.best_step}")
    log(f"  checkpoints  {workdir / 'checkpoints'}")
    log(f"  metrics      {workdir / 'metrics.jsonl'}")
    log(f"  curves       {report.beside}")
    log(f"  report       {report.page}")


def _default_workdir(reference: str, num_seeds: int | None) -> Path:
    path = default_workdir(*split_reference(reference))
    return path if num_seeds is None else path.with_name(f"{path.name}-seeds")


def tell_how_processes_resume(tell: Callable[[str], None], step: int) -> None:
    """Says how several processes that were stopped together go on."""
    tell(
        f"Interrupted at step {step}; everything is saved. Start all processes again, as they were "
        "started, to go on from there."
        if step
        else "Interrupted before the first step, so nothing was trained. Start all processes again."
    )


def _tell_how_to_resume(invocation: Invocation, workdir: Path, step: int) -> None:
    values = invocation.flags
    command = ["cnn-lab", "train", f"--config={values.config}", f"--workdir={workdir}"]
    command += [f"--seeds={values.seeds}"] if values.seeds is not None else []
    command += [f"--config.{path}={text}" for path, text in invocation.overrides]
    log(
        f"Interrupted at step {step}; everything is saved. Resume with:"
        if step
        else "Interrupted before the first step, so nothing was trained. Begin again with:"
    )
    log(f"  {shlex.join(command)}")


def require_data(config: ExperimentConfig, reference: str) -> None:
    """Raises a `ConfigError` for the config of a run that has no data."""
    if config.data.name == NO_DATA:
        raise ConfigError(
            f"{reference} is the config of imported weights, to which no data set belongs; set "
            "--config.data.name to train the same model anew, without those weights."
        )


def parse_steps(text: str) -> tuple[int, int]:
    """Reads `10:15`.

    Raises:
        ConfigError: it is something else.
    """
    first, _, last = text.partition(":")
    if not first.isdecimal() or not last.isdecimal() or int(first) >= int(last):
        raise ConfigError(
            "--profile_steps must be FIRST:LAST, such as 10:15, with LAST above FIRST; found "
            f"{text!r}."
        )
    return int(first), int(last)
