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
  cnn-lab train --config=mnist/lenet5_distorted:all
  cnn-lab train --config=experiments/mnist/lenet5.py --config.optim.learning_rate=0.05
  cnn-lab train --config=experiments/mnist/lenet5.py --config.early_stopping.patience=3 --dry_run
  cnn-lab train --config=runs/a/config.json --workdir=runs/b
"""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cnn_lab.cli import joining
from cnn_lab.cli.flags import CONFIG, Flag, Invocation
from cnn_lab.cli.runtime import log_if_read as log
from cnn_lab.config import NO_DATA, ExperimentConfig
from cnn_lab.config.experiments import name_of
from cnn_lab.config.load import load_config, split_reference
from cnn_lab.config.node import freeze
from cnn_lab.config.values import Range
from cnn_lab.core.errors import ConfigError

if TYPE_CHECKING:
    from cnn_lab.distributed.processes import Processes
    from cnn_lab.runs.train import Result

DRY_RUN = (
    Flag("dry_run", "say what would be trained; trains nothing and writes nothing", bool),
    Flag(
        "compile",
        "with --dry_run: compile a step too, for its scratch memory and exchanges of devices",
        bool,
    ),
)
FLAGS = (
    CONFIG,
    Flag("workdir", "folder of the run; runs/ and the experiment's path by default"),
    Flag(
        "seeds",
        "runs, each from the next seed; left out, one run, of --config.seed",
        Annotated[int, Range(min=2)],
        advice="leave it out for one run, whose seed is --config.seed",
    ),
    *DRY_RUN,
    Flag(
        "profile_steps",
        "FIRST:LAST, such as 10:15: trace the steps between, for TensorBoard or Perfetto",
    ),
    *joining.FLAGS,
)


def main(invocation: Invocation) -> int:
    """Trains, then says where everything is."""
    values = invocation.flags
    config = load_experiment(invocation)
    profiled = values.profile_steps
    profile_steps = None if profiled is None else parse_steps(profiled)
    if profiled and (values.seeds is not None or values.dry_run):
        which = "--dry_run" if values.dry_run else "--seeds"
        raise ConfigError(
            f"--profile_steps traces one training; leave it out, or {which}.",
            where="--profile_steps",
        )
    check_compile(invocation)
    processes = joining.start(values, config, {"profile_steps": profiled})
    if values.dry_run:
        from cnn_lab.cli.dry_run import dry_run

        dry_run(config, log, compiles=values.compile)
        return 0
    default = default_workdir(*split_reference(values.config))
    if values.seeds is not None:
        default = default.with_name(f"{default.name}-seeds")
    workdir = Path(values.workdir or default)
    if values.seeds is not None:
        from cnn_lab.study.seeds import train_seeds

        result = train_seeds(config, workdir, values.seeds, log)
        if result is None:
            return 0
    else:
        from cnn_lab.runs.train import run_training

        primary_log = log if processes.is_primary else lambda _: None
        result = run_training(
            config, workdir, primary_log, processes=processes, profile_steps=profile_steps
        )
    again = {"config": values.config, "workdir": workdir, "seeds": values.seeds}
    return end(invocation, workdir, result, processes, again)


def load_experiment(invocation: Invocation) -> ExperimentConfig:
    """The config of `--config` and its overrides.

    Raises:
        ConfigError: it is wrong, or that of a run without data.
    """
    config = freeze(load_config(invocation.flags.config, invocation.overrides))
    if config.data.name == NO_DATA:
        raise ConfigError(
            f"{invocation.flags.config} is the config of imported weights, to which no data set "
            "belongs; set --config.data.name to train the same model anew, without those weights.",
            where="config.data.name",
            found=NO_DATA,
        )
    return config


def check_compile(invocation: Invocation) -> None:
    """Refuses `--compile` without `--dry_run`; a training is compiled anyway."""
    if invocation.flags.compile and not invocation.flags.dry_run:
        problem = "--compile belongs to --dry_run; give both, or leave it out."
        raise ConfigError(problem, where="--compile")


def end(
    invocation: Invocation,
    workdir: Path,
    result: "Result",
    processes: "Processes",
    again: Mapping[str, Any],
) -> int:
    """Writes the page of a run that has ended, and says where everything is or how to go on.

    By the flags of `again`, beside the overrides, `cnn-lab train` resumes the run.

    Returns:
        The exit status.
    """
    progress, best = result.progress, result.progress.selection
    interrupted = result.status == "interrupted"
    status = invocation.flags.interrupted_status if interrupted else 0
    if not processes.is_primary:
        return status
    if interrupted:
        saved = f"Interrupted at step {progress.step}; everything is saved."
        if not progress.step:
            saved = "Interrupted before the first step, so nothing was trained."
        if processes.count > 1:
            log(f"{saved} Start all processes again, as they were started, to go on.")
            return status
        log(f"{saved} {'Resume' if progress.step else 'Begin again'} with:")
        words = ["cnn-lab", "train", *(f"--{n}={v}" for n, v in again.items() if v is not None)]
        words += [f"--config.{path}={text}" for path, text in invocation.overrides]
        log(f"  {shlex.join(words)}")
        return status
    from cnn_lab.report.run import write_report  # half a second for matplotlib, at the end

    report = write_report(workdir)
    ran = "Run" if result.ran else "Nothing to do: this run has"
    log(f"{ran} {result.status} at step {progress.step}.")
    if best.best_value is not None:
        log(f"  best validation {result.metric}  {best.best_value:.4f} at step {best.best_step}")
    log(f"  checkpoints  {workdir / 'checkpoints'}")
    log(f"  metrics      {workdir / 'metrics.jsonl'}")
    log(f"  curves       {report.beside}")
    log(f"  report       {report.page}")
    return status


def default_workdir(config_path: Path, argument: str | None = None) -> Path:
    """The folder of a run without --workdir: `runs/` and the experiment's name and argument.

    The config.json of a run belongs to the run in its folder.
    """
    if config_path.suffix == ".json":
        return config_path.parent
    name = name_of(config_path)
    if not argument:
        return Path("runs", name)
    # It may be a path; that of a file goes by the file's name.
    suffix = re.sub(r"[^\w.=,+-]+", "-", Path(argument).stem if "/" in argument else argument)
    return Path("runs", name.with_name(f"{name.name}-{suffix.strip('-')}"))


def parse_steps(text: str) -> tuple[int, int]:
    """The two numbers of `10:15`."""
    first, _, last = text.partition(":")
    if not first.isdecimal() or not last.isdecimal() or int(first) >= int(last):
        expected = "FIRST:LAST, such as 10:15, with LAST above FIRST"
        raise ConfigError(where="--profile_steps", found=text, allowed=expected)
    return int(first), int(last)
