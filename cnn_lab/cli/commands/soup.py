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

from cnn_lab.cli import runtime
from cnn_lab.cli.flags import CHECKPOINTS, WORKDIRS, Flag, Invocation
from cnn_lab.cli.runtime import log
from cnn_lab.runs.comparable import EvaluationOptions, check_number
from cnn_lab.runs.select import find_checkpoints, find_workdirs

FLAGS = (
    WORKDIRS,
    CHECKPOINTS,
    Flag("out", "new folder for the run", needed="give a new folder"),
)


def main(invocation: Invocation) -> int:
    """Averages the networks and writes the run."""
    values = invocation.flags
    workdirs, checkpoints = find_workdirs(values.workdir), find_checkpoints(values.checkpoint)
    check_number(len(workdirs), checkpoints, EvaluationOptions())
    runtime.start(None)
    from cnn_lab.runs.soup import make_soup

    out = Path(values.out)
    make_soup(workdirs, checkpoints, out, log)
    log(f"Use it by: cnn-lab evaluate --workdir={out}")
    return 0
