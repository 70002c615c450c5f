"""Names the most probable classes of PNG or JPEG files.

Images are converted to the gray or colour and the size that the network was trained with. Digits
nets expect light strokes on black, as their training images are; `--invert` turns dark on white.

Examples:
  cnn-lab predict --workdir=runs/mnist/lenet5 seven.png
  cnn-lab predict --workdir=runs/mnist/lenet5 --top=3 --invert scans/*.jpg
"""

import sys
from pathlib import Path

from absl import flags

from cnn_lab.cli import runtime
from cnn_lab.cli.main import Invocation
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.formatting import counted

BATCH_SIZE = 64
SHOWN = 5


def define_flags(values: flags.FlagValues) -> None:
    """Declares the flags of this command."""
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    flags.DEFINE_string("checkpoint", "best", "best, latest or a step", flag_values=values)
    flags.DEFINE_integer("top", 3, "how many classes to name", flag_values=values)
    flags.DEFINE_bool("invert", False, "exchange black and white first", flag_values=values)


def main(invocation: Invocation) -> int:
    """Prints path, then class and probability of the top classes, one image a line."""
    values, paths = invocation.flags, [Path(argument) for argument in invocation.arguments]
    if not values.workdir:
        raise ConfigError("--workdir is missing: give the folder of a trained run.")
    if not paths:
        raise ConfigError("predict needs image files: cnn-lab predict --workdir=DIR IMAGE...")
    if values.top < 1:
        raise ConfigError(f"--top must be at least 1; found {values.top}.")
    runtime.start(None)
    import jax
    import jax.numpy as jnp
    import numpy as np

    from cnn_lab.data.decoding import looks_inverted, read_image_file
    from cnn_lab.experiment.restore import restore_run

    trained = restore_run(Path(values.workdir), values.checkpoint)
    network = trained.network
    images = np.stack([read_image_file(path, network.image_shape) for path in paths])
    if values.invert:
        images = 255 - images

    @jax.jit
    def probabilities(variables, images):
        logits = network.model.apply(variables, network.preprocess(images), train=False)
        return jax.nn.softmax(jnp.asarray(logits))

    size = min(BATCH_SIZE, len(images))
    for start in range(0, len(images), size):
        part = images[start : start + size]
        filled = np.pad(part, ((0, size - len(part)), (0, 0), (0, 0), (0, 0)))
        rows = np.asarray(probabilities(trained.variables, filled))[: len(part)]
        for path, row in zip(paths[start : start + size], rows, strict=True):
            best = np.argsort(-row, kind="stable")[: values.top]
            named = "  ".join(f"{network.class_names[k]} {row[k]:.4f}" for k in best)
            sys.stdout.write(f"{path}  {named}\n")
    mean = network.preprocess.mean
    if len(mean) == 1 and (inverted := looks_inverted(images, mean[0])).any():
        sys.stdout.flush()
        sys.stderr.write(_hint(paths, inverted.tolist(), invert=values.invert))
    return 0


def _hint(paths: list[Path], inverted: list[bool], *, invert: bool) -> str:
    found = [str(path) for path, is_inverted in zip(paths, inverted, strict=True) if is_inverted]
    names = ", ".join(found[:SHOWN]) + (" ..." if len(found) > SHOWN else "")
    several = f"{len(found)} of {counted(len(paths), 'image')} are about as bright ({names})"
    bright = f"{names} is about as bright" if len(found) == 1 else several
    change = "leave out --invert" if invert else "add --invert"
    return (
        f"hint: {bright} as negatives of the training images; where light and dark are exchanged, "
        f"{change}.\n"
    )
