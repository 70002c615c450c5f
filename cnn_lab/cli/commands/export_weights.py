"""Writes the weights of a run as a safetensors file, named as in torchvision or timm.

PyTorch reads it by `model.load_state_dict(safetensors.torch.load_file(FILE))`.

Examples:
  cnn-lab export-weights --workdir=runs/resnet50 --out=resnet50.safetensors
  cnn-lab export-weights --workdir=runs/tiny --naming=timm --out=tiny.safetensors
"""

import sys
from pathlib import Path

from cnn_lab.cli import runtime
from cnn_lab.cli.flags import CHECKPOINT, WORKDIR, Flag, Invocation, output_file
from cnn_lab.cli.reference import flag_text
from cnn_lab.core.errors import ConfigError

MAX_NAMED = 10  # classes in the hint
FLAGS = (
    WORKDIR,
    Flag("out", "file to write, .safetensors", needed="give a file that ends in .safetensors"),
    CHECKPOINT,
    Flag("naming", "torchvision or timm", default="torchvision"),
)


def main(invocation: Invocation) -> int:
    """Writes the file and prints what is in it."""
    values = invocation.flags
    out = output_file(values.out, ".safetensors")
    if out.exists():
        problem = f"--out={out} exists; give another name, or remove it."
        raise ConfigError(problem, where="--out", found=values.out)
    runtime.start(None)
    from cnn_lab.runs.import_weights import export_weights
    from cnn_lab.transfer.convert import num_values
    from cnn_lab.workdir.run_dir import RECORD_FILE, read_config

    spec = read_config(Path(values.workdir)).model
    trained, tensors = export_weights(
        Path(values.workdir), out, checkpoint=values.checkpoint, library=values.naming
    )
    sys.stdout.write(
        f"{out}: {num_values(tensors):,} values in {len(tensors)} tensors of step "
        f"{trained.step}, named as in {values.naming}.\n"
    )
    network, preprocess = trained.network, trained.network.preprocess
    options = "".join(f" --option={name}={flag_text(v)}" for name, v in spec.options.items())
    mean, std = (
        ",".join(f"{value:.6g}" for value in channels)
        for channels in (preprocess.mean, preprocess.std)
    )
    shape, padding = "x".join(map(str, network.input_shape)), ""
    if preprocess.pad:
        padding = f"; its images were padded by {preprocess.pad} pixels, which no import does"
    names = ", ".join(network.class_names[:MAX_NAMED])
    if len(network.class_names) > MAX_NAMED:
        record = Path(values.workdir) / RECORD_FILE
        names += f", ... ({len(network.class_names):,} names, target.names in {record})"
    sys.stdout.write(
        "The file holds weights alone. What import-weights needs beside it:\n"
        f"  --model={spec.name}{options} --input={shape} --mean={mean} --std={std} and, a line "
        f"each in a file for --class_names: {names}{padding}\n"
    )
    return 0
