"""Shows the cost of a model, layer by layer; nothing is initialised or computed.

Columns: parameters of the layer's own; multiply-accumulates (MACs) of convolutions and dense
products; side of the receptive field and stride, in pixels of the image; bytes of the output.

Examples:
  cnn-lab summary --model=resnet50
  cnn-lab summary --model=resnet50 --input=64x64x3 --num_classes=10 --option=stem=small --batch=128
"""

import math
import sys
from typing import Any

from absl import flags

from cnn_lab.cli import runtime
from cnn_lab.cli.config_flag import parse_shape
from cnn_lab.cli.main import Invocation
from cnn_lab.config.options import parse_options
from cnn_lab.core.errors import ConfigError


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
    from cnn_lab.cli.cost_text import cost_text
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
