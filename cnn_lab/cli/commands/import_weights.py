r"""Makes a run of weights from torchvision, timm, or whatever names its layers like them.

FILE is a safetensors file, or a PyTorch one (.pt, .pth) where PyTorch is installed; only weights
are read, never code. Every weight must find its place, and every place its weight: else the
differences are listed. `cnn-lab predict` uses the run, by the mean and deviation that the published
weights want.

Examples:
  cnn-lab import-weights --model=resnet50 --from=resnet50.safetensors --out=runs/resnet50 \
      --class_names=imagenet_classes.txt
  cnn-lab import-weights --model=resnet20 --from=cifar.pth --out=runs/cifar \
      --rename='^module\.=>' --rename='^linear\.=>fc.' \
      --mean=0.491,0.482,0.447 --std=0.247,0.243,0.262
  cnn-lab import-weights --model=resnet18 --from=resnet18.pth --out=runs/ten --num_classes=10 \
      --new_head
"""

import sys
from pathlib import Path
from typing import Any

from cnn_lab.cli import runtime
from cnn_lab.cli.flags import OPTIONS, Flag, Invocation, parse_shape
from cnn_lab.config.values import Count, Fraction, Positive, parse_options
from cnn_lab.core.errors import CheckpointError, ConfigError
from cnn_lab.core.text import counted

FLAGS = (
    Flag("model", "name, as `list models` shows", needed="give a model"),
    Flag("from", "file of weights", needed="give a file of weights"),
    Flag("out", "folder of the new run", needed="give a folder"),
    Flag("naming", "torchvision or timm; left out, the one that fits best"),
    Flag("class_names", "file with a name a line; left out, class_0 and so on"),
    Flag("input", "HEIGHTxWIDTHxCHANNELS; left out, the paper's"),
    Flag(
        "mean",
        "per channel, of pixels in [0, 1]; left out, what the published weights want",
        tuple[Fraction, ...],
    ),
    Flag("std", "per channel, likewise", tuple[Positive, ...]),
    Flag("rename", "REGEX=>REPLACEMENT of names in the file, in order", list),
    OPTIONS,
    Flag("num_classes", "left out, as many as names, or as in the paper", Count),
    Flag("new_head", "leave the output layers at their initial values", bool),
    Flag("seed", "of those initial values", int, 0),
)


def main(invocation: Invocation) -> int:
    """Imports the weights and prints what was left out."""
    values = invocation.flags
    runtime.start(None)
    from cnn_lab.data.normalize import Preprocess
    from cnn_lab.models.registry import MODELS
    from cnn_lab.runs.import_weights import published_pixels, write_imported

    source, out = Path(str(values["from"].value)), Path(values.out)
    entry = MODELS.lookup(values.model, "--model")
    shape: Any = parse_shape(values.input, entry.image_shape) if values.input else entry.image_shape
    if shape[2] not in (1, 3):
        problem = f"--input must have 1 or 3 channels; found {values.input!r}."
        raise ConfigError(problem, where="--input", found=values.input)
    usual_mean, usual_std = published_pixels(values.model)
    pixels = {"mean": values.mean or usual_mean, "std": values.std or usual_std}
    for flag, given in pixels.items():
        if len(given) != shape[2]:
            raise ConfigError(
                f"--{flag} must have {shape[2]} value(s), one a channel; found {len(given)}: "
                f"{','.join(map(str, given))}.",
                where=f"--{flag}",
                found=given,
            )
    class_names = _class_names(values.class_names, values.num_classes, entry.num_classes)
    try:
        imported, num_values = write_imported(
            values.model,
            source,
            out,
            options=parse_options(entry.make, values.option, "--option", values.model),
            class_names=class_names,
            image_shape=shape,
            preprocess=Preprocess(pixels["mean"], pixels["std"]),
            library=values.naming,
            renames=values.rename,
            new_head=values.new_head,
            seed=values.seed,
        )
    except CheckpointError as error:
        is_length = error.where == "--num_classes" and error.found != len(class_names)
        if values.class_names is None or not is_length:
            raise
        raise ConfigError(
            f"--class_names={values.class_names} holds {counted(len(class_names), 'name')}, but "
            f"the weights are of {counted(error.found, 'class')}; give a name for each of them, or "
            "--new_head to leave the output layers at their initial values.",
            where="--class_names",
            found=len(class_names),
        ) from error
    lines = [f"{values.model}: {num_values:,} values of {source}, named as in {imported.library}."]
    if imported.new_layers:
        layers = ", ".join(imported.new_layers)
        lines.append(f"Left at initial values, and to be trained: {layers}.")
    if imported.other_dtypes:
        lines.append(f"Brought to float32 from {', '.join(imported.other_dtypes)}.")
    lines.append(f"Use it by: cnn-lab predict --workdir={out} IMAGE")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _class_names(path: str | None, num_classes: int | None, num_usual: int) -> tuple[str, ...]:
    if path is None:
        return tuple(f"class_{number}" for number in range(num_classes or num_usual))
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no UTF-8 text"
        problem = f"--class_names={path} cannot be read ({reason})."
        raise ConfigError(problem, where="--class_names", found=path) from None
    names = tuple(line.strip() for line in lines if line.strip())
    problem = None
    if not names:
        problem = f"--class_names={path} holds no names; give one a line."
    elif num_classes is not None and len(names) != num_classes:
        problem = f"--class_names={path} holds {len(names)} names; --num_classes is {num_classes}."
    if problem is not None:
        raise ConfigError(problem, where="--class_names", found=path)
    return names
