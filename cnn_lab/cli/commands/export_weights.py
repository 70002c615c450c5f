"""Writes the weights of a run as a safetensors file, named as in torchvision or timm.

PyTorch reads it by `model.load_state_dict(safetensors.torch.load_file(FILE))`.

Examples:
  cnn-lab export-weights --workdir=runs/resnet50 --out=resnet50.safetensors
  cnn-lab export-weights --workdir=runs/tiny --naming=timm --out=tiny.safetensors
"""

import sys
from pathlib import Path

from absl import flags

from cnn_lab.cli import runtime
from cnn_lab.cli.main import Invocation
from cnn_lab.cli.reference import flag_text
from cnn_lab.core.errors import ConfigError


def define_flags(values: flags.FlagValues) -> None:
    """Declares the flags of this command."""
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    flags.DEFINE_string("out", None, "file to write, .safetensors", flag_values=values)
    flags.DEFINE_string("checkpoint", "best", "best, latest or a step", flag_values=values)
    flags.DEFINE_string("naming", "torchvision", "torchvision or timm", flag_values=values)


def main(invocation: Invocation) -> int:
    """Writes the file and prints what is in it."""
    values = invocation.flags
    if invocation.arguments:
        raise ConfigError(f"export-weights takes flags only; found {invocation.arguments[0]!r}.")
    if not values.workdir:
        raise ConfigError("--workdir is missing: give the folder of a run.")
    out = Path(values.out or "")
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out must be a file that ends in .safetensors; found {values.out!r}.")
    if out.exists():
        raise ConfigError(f"--out={out} exists; give another name, or remove it.")
    if not out.parent.is_dir():
        raise ConfigError(f"--out={out}: there is no folder {out.parent}; make it first.")
    runtime.start(None)
    from cnn_lab.runs.import_weights import export_weights
    from cnn_lab.transfer.convert import num_values
    from cnn_lab.workdir.run_dir import read_config

    spec = read_config(Path(values.workdir)).model
    trained, tensors = export_weights(
        Path(values.workdir), out, checkpoint=values.checkpoint, library=values.naming
    )
    sys.stdout.write(
        f"{out}: {num_values(tensors):,} values in {len(tensors)} tensors of step "
        f"{trained.step}, named as in {values.naming}.\n"
    )
    options = "".join(
        f" --option={name}={flag_text(value)}" for name, value in spec.options.items()
    )
    mean, std = (
        ",".join(f"{value:.6g}" for value in values)
        for values in (trained.network.preprocess.mean, trained.network.preprocess.std)
    )
    shape = "x".join(map(str, trained.network.input_shape))
    pad = trained.network.preprocess.pad
    padding = f"; its images were padded by {pad} pixels, which no import does" if pad else ""
    sys.stdout.write(
        "The file holds weights alone. What import-weights needs beside it:\n"
        f"  --model={spec.name}{options} --input={shape} --mean={mean} --std={std} and, a line "
        f"each in a file for --class_names: {', '.join(trained.network.class_names)}{padding}\n"
    )
    return 0
