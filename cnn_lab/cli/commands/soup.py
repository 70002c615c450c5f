"""Makes one run from the mean of several runs' or checkpoints' weights.

Statistics of batch normalisation are measured anew on training images. Good members are
checkpoints of one run, or fine-tunings of one network; the weights of runs from different seeds lie
too far apart, and their predictions are better averaged by `cnn-lab evaluate --ensemble`.

Examples:
  cnn-lab soup --workdir=runs/mnist/lenet5 --checkpoint=all --out=runs/mnist/soup
  cnn-lab soup --workdir='runs/tuned/rate*' --out=runs/tuned/soup
  cnn-lab evaluate --workdir=runs/tuned/soup
"""

from pathlib import Path

from absl import flags

from cnn_lab.cli import runtime
from cnn_lab.cli.main import Invocation
from cnn_lab.cli.runtime import log
from cnn_lab.core.errors import ConfigError
from cnn_lab.runs.select import find_checkpoints, find_workdirs


def define_flags(values: flags.FlagValues) -> None:
    """Declares the flags of this command."""
    flags.DEFINE_string(
        "workdir", None, "runs: one, several between commas, or a pattern", flag_values=values
    )
    flags.DEFINE_string(
        "checkpoint",
        "best",
        "best, latest, a step; of one run also several between commas, or all",
        flag_values=values,
    )
    flags.DEFINE_string("out", None, "new folder for the run", flag_values=values)


def main(invocation: Invocation) -> int:
    """Averages the networks and writes the run."""
    values = invocation.flags
    if invocation.arguments:
        raise ConfigError(f"soup takes flags only; found {invocation.arguments[0]!r}.")
    for name in ("workdir", "out"):
        if not getattr(values, name):
            raise ConfigError(f"--{name} is missing; see cnn-lab help soup.")
    workdirs, checkpoints = find_workdirs(values.workdir), find_checkpoints(values.checkpoint)
    if len(workdirs) > 1 and (len(checkpoints) > 1 or checkpoints == ["all"]):
        raise ConfigError(
            "Several checkpoints can be taken of one run only; give one --workdir, or one "
            "--checkpoint."
        )
    runtime.start(None)
    from cnn_lab.runs.soup import make_soup

    out = Path(values.out)
    make_soup(workdirs, checkpoints, out, log)
    log(f"Use it by: cnn-lab evaluate --workdir={out}")
    return 0
