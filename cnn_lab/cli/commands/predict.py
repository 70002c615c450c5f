"""Predicts the classes, or the numbers, of PNG or JPEG files.

Images are converted to the gray or colour and the size that the network was trained with. Digits
nets expect light strokes on black, as their training images are; `--invert` turns dark on white.

Examples:
  cnn-lab predict --workdir=runs/mnist/lenet5 seven.png
  cnn-lab predict --workdir=runs/mnist/lenet5 --top=3 --invert scans/*.jpg
"""

import sys
from pathlib import Path

from cnn_lab.cli import runtime
from cnn_lab.cli.flags import CHECKPOINT, WORKDIR, Flag, Invocation
from cnn_lab.config.values import Count
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.text import counted

TAKES_ARGUMENTS = True
MAX_SHOWN = 5  # files in the hint
FLAGS = (
    WORKDIR,
    CHECKPOINT,
    Flag("top", "how many of the most probable classes to name", Count, 3),
    Flag("invert", "exchange black and white first", bool),
)


def main(invocation: Invocation) -> int:
    """Prints path, then probabilities of the top classes or the numbers, one image a line."""
    values, paths = invocation.flags, [Path(argument) for argument in invocation.arguments]
    if not paths:
        raise ConfigError("predict needs image files: cnn-lab predict --workdir=DIR IMAGE...")
    runtime.start(None)
    from cnn_lab.experiment.restore import restore_run
    from cnn_lab.runs.predict import predict_files

    restored = restore_run(Path(values.workdir), values.checkpoint)
    found = predict_files(restored, paths, invert=values.invert)
    for path, line in zip(paths, found.predictions.describe(values.top), strict=True):
        sys.stdout.write(f"{path}  {line}\n")
    negatives = [
        str(path) for path, may_be in zip(paths, found.may_be_negatives, strict=True) if may_be
    ]
    if negatives:
        sys.stdout.flush()
        sys.stderr.write(_hint(negatives, len(paths), invert=values.invert))
    return 0


def _hint(negatives: list[str], num_images: int, *, invert: bool) -> str:
    names = ", ".join(negatives[:MAX_SHOWN]) + (" ..." if len(negatives) > MAX_SHOWN else "")
    several = f"{len(negatives)} of {counted(num_images, 'image')} are about as bright ({names})"
    bright = f"{names} is about as bright" if len(negatives) == 1 else several
    change = "leave out --invert" if invert else "add --invert"
    return (
        f"hint: {bright} as negatives of the training images; where light and dark are exchanged, "
        f"{change}.\n"
    )
