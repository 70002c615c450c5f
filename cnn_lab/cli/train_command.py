"""Trains the network that an experiment file describes.

The same command again resumes a run that was interrupted, and says so when it had ended. Any field
of the config can be overridden (`cnn-lab help config` lists them); `none` clears an optional one.

Examples:
  cnn-lab train --config=experiments/digits/lenet5.py
  cnn-lab train --config=experiments/mnist/lenet5.py --config.optim.learning_rate=0.05
  cnn-lab train --config=experiments/mnist/lenet5.py --config.early_stopping.patience=3 --dry_run
  cnn-lab train --config=runs/a/config.json --workdir=runs/b
"""

import shlex
import sys
from pathlib import Path

from absl import flags

from cnn_lab.cli import runtime
from cnn_lab.cli.config_flag import load_config, split_reference
from cnn_lab.cli.main import Invocation
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.typed import freeze


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
        raise ConfigError(f"train takes flags only; found {invocation.arguments[0]!r}.")
    config = freeze(load_config(reference, invocation.overrides))
    runtime.start(config.mesh.num_devices)
    from cnn_lab.build import default_workdir
    from cnn_lab.cli.dry_run import dry_run
    from cnn_lab.run import run_training
    from cnn_lab.train.workdir import unwritable

    if invocation.flags.dry_run:
        _say(dry_run(config))
        return 0
    workdir = Path(invocation.flags.workdir or default_workdir(*split_reference(reference)))
    try:
        result = run_training(config, workdir, _say)
    except OSError as error:
        if error.filename is not None:  # it names another file than the run's open ones
            raise
        raise unwritable(workdir, error) from error
    progress = result.progress
    if result.status == "interrupted":
        overrides = [f"--config.{path}={text}" for path, text in invocation.overrides]
        command = ["cnn-lab", "train", f"--config={reference}", f"--workdir={workdir}", *overrides]
        _say(f"Interrupted at step {progress.step}; everything is saved. Resume with:")
        _say(f"  {shlex.join(command)}")
        return 0
    from cnn_lab.report.page import write_report  # half a second for matplotlib, at the end

    report = write_report(workdir)
    best = progress.selection
    _say(
        f"{'Run' if result.ran else 'Nothing to do: this run has'} {result.status} "
        f"at step {progress.step}."
    )
    if best.best_value is not None:
        metric = config.selection.metric
        _say(f"  best validation {metric}  {best.best_value:.4f} at step {best.best_step}")
    _say(f"  checkpoints  {workdir / 'checkpoints'}")
    _say(f"  metrics      {workdir / 'metrics.jsonl'}")
    _say(f"  curves       {report.curves}")
    _say(f"  report       {report.page}")
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
