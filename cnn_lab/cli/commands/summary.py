"""Shows the cost of a model, layer by layer; nothing is initialised or computed.

Columns: parameters of the layer's own; multiply-accumulates (MACs) of convolutions and dense
products; side of the receptive field and stride, in pixels of the image; bytes of the output.

Examples:
  cnn-lab summary --model=resnet50
  cnn-lab summary --model=resnet50 --input=64x64x3 --num_classes=10 --option=stem=small --batch=128
"""

import math
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from cnn_lab.analysis.cost import (
    PICOJOULES_PER_MAC,
    TRAINING_PASSES,
    Cost,
    Layer,
    energy_kwh,
    step_memory,
)
from cnn_lab.cli import runtime
from cnn_lab.cli.config_flag import parse_shape
from cnn_lab.cli.main import Invocation
from cnn_lab.config.values import parse_options
from cnn_lab.core.errors import ConfigError, human_bytes, human_count


def define_flags(values: flags.FlagValues) -> None:
    """Declares the flags of this command."""
    flags.DEFINE_string("model", None, "name, as `list models` shows", flag_values=values)
    flags.DEFINE_string(
        "input",
        None,
        "HEIGHTxWIDTHxCHANNELS; left out, what the model was made for",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num_classes", None, "left out, as many as in the paper", flag_values=values
    )
    flags.DEFINE_integer("batch", 32, "examples per training step", flag_values=values)
    flags.DEFINE_multi_string("option", [], "NAME=VALUE of the model", flag_values=values)
    flags.DEFINE_float("price_per_kwh", 0.30, "money per kilowatt-hour", flag_values=values)
    flags.DEFINE_float(
        "picojoules_per_mac", None, "left out, Horowitz 2014 for the dtype", flag_values=values
    )


def main(invocation: Invocation) -> int:
    """Prints a line per layer, and totals."""
    values = invocation.flags
    if invocation.arguments:
        raise ConfigError(f"summary takes flags only; found {invocation.arguments[0]!r}.")
    if not values.model:
        raise ConfigError("--model is missing: give a name that `cnn-lab list models` shows.")
    for name, smallest in (("batch", 1), ("num_classes", 1), ("price_per_kwh", 0)):
        number: Any = values[name].value
        if number is not None and not smallest <= number < math.inf:
            raise ConfigError(f"--{name} must be at least {smallest}; found {number}.")
    if values.picojoules_per_mac is not None and not 0 < values.picojoules_per_mac < math.inf:
        raise ConfigError(
            f"--picojoules_per_mac must be above 0; found {values.picojoules_per_mac}."
        )
    runtime.start_logging()
    from cnn_lab.analysis.cost import cost_of
    from cnn_lab.models.registry import MODELS

    entry = MODELS.lookup(values.model)
    options = parse_options(entry.make, values.option, "--option", values.model)
    shape = (
        entry.image_shape if values.input is None else parse_shape(values.input, entry.image_shape)
    )
    num_classes = values.num_classes or entry.num_classes
    model = entry.make(num_classes, **options)
    cost = training = cost_of(model, shape)
    if not options and (shape, num_classes) == (entry.image_shape, entry.num_classes):
        entry.verify(cost)
    if any(layer.output_shape is None for layer in cost.layers):
        training = cost_of(model, shape, train=True)
    dtype = options.get("dtype", "float32")
    title = f"{values.model}: {entry.title}; {entry.paper}"
    lines = [title, f"input {'x'.join(map(str, shape))}, {num_classes} classes, {dtype}", ""]
    prices = values.price_per_kwh, values.picojoules_per_mac
    lines += cost_text(cost, training, values.batch, dtype, *prices)
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


IMAGES = 1_000_000  # of the energies
HEADINGS = ("layer", "kind", "output", "parameters", "MACs", "field", "stride", "output bytes")
RIGHT = (False, False, False, True, True, True, True, True)


def cost_text(
    cost: Cost,
    training: Cost,
    batch_size: int,
    dtype: str,
    price_per_kwh: float,
    picojoules_per_mac: float | None = None,
) -> list[str]:
    """The lines of a table of layers, totals, memory and energy.

    Args:
        cost: of a model in evaluation.
        training: of its pass forward in training.
        batch_size: examples per training step.
        dtype: of the computation, which decides the energy of arithmetic.
        price_per_kwh: money per kilowatt-hour.
        picojoules_per_mac: energy of a multiply-accumulate; None is Horowitz's for the dtype.
    """
    rows = [HEADINGS, *map(_row, cost.layers)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [_line(row, widths) for row in rows]
    table.insert(1, "-" * len(table[0]))
    memory = step_memory(cost.variables, training.activation_bytes, batch_size)
    joules = picojoules_per_mac or PICOJOULES_PER_MAC[dtype]
    source = "as given by --picojoules_per_mac"
    if picojoules_per_mac is None:
        source = f"{dtype}; Horowitz 2014, ISSCC, 45 nm; data movement left out"
    more = "as many" if training.macs == cost.macs else "those with the layers that only train"
    lines = [
        *table,
        "",
        f"parameters   {cost.num_parameters:,} = {human_bytes(memory.parameters)}",
        f"inference    {cost.macs:,} MACs = {human_count(2 * cost.macs)}FLOPs an image "
        "(2 a MAC; convolutions and dense products)",
        f"training     {human_count(2 * TRAINING_PASSES * training.macs)}FLOPs an image "
        f"({TRAINING_PASSES} times {more}: forward and two gradients)",
        f"activations  {human_bytes(training.activation_bytes)} an image, "
        f"{human_bytes(memory.activations)} in a batch of {batch_size} (outputs of the layers "
        "above, kept for the gradients)",
    ]
    for optimizer, slots in memory.optimizer.items():
        lines.append(
            f"memory       {human_bytes(memory.total(optimizer))} for training with {optimizer}: "
            f"{human_bytes(memory.parameters)} parameters, {human_bytes(memory.gradients)} "
            f"gradients, {human_bytes(slots)} optimizer, {human_bytes(memory.statistics)} "
            f"statistics, {human_bytes(memory.activations)} activations"
        )
    for what, macs in (("inference", cost.macs), ("training", TRAINING_PASSES * training.macs)):
        kwh = energy_kwh(IMAGES * macs, joules)
        lines.append(
            f"energy       {kwh:.3g} kWh = {kwh * price_per_kwh:.3g} in money for {what} on "
            f"{IMAGES:,} images"
        )
    lines.append(
        f"             at least: arithmetic alone, {joules:g} pJ a MAC ({source}), "
        f"{price_per_kwh:g} a kWh (--price_per_kwh)"
    )
    return lines


def _row(layer: Layer) -> Sequence[str]:
    shape = "(training only)"
    if layer.output_shape is not None:
        shape = "x".join(map(str, layer.output_shape)) or "1"
    field, stride = "all", "-"
    if layer.output_shape is None:
        field = "-"
    elif layer.receptive_field is not None and layer.stride is not None:
        field, stride = _side(layer.receptive_field), _side(layer.stride)
    numbers = (f"{n:,}" if n else "-" for n in (layer.num_parameters, layer.macs))
    return (
        layer.path or "(model)",
        layer.kind,
        shape,
        *numbers,
        field,
        stride,
        f"{layer.activation_bytes:,}",
    )


def _side(sizes: Sequence[int] | Sequence[float]) -> str:
    """One number where all axes agree, else one each: 3 or 1x3."""
    return "x".join(f"{size:g}" for size in (sizes[:1] if len({*sizes}) == 1 else sizes))


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = zip(row, widths, RIGHT, strict=True)
    return "  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in cells).rstrip()
