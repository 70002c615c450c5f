"""Shows the cost of a model, layer by layer; nothing is initialised or computed.

Columns: parameters of the layer's own; multiply-accumulates (MACs) of convolutions and dense
products; side of the receptive field and stride, in pixels of the image; bytes of the output.

Examples:
  cnn-lab summary --model=resnet50
  cnn-lab summary --model=resnet50 --input=64x64x3 --num_classes=10 --option=stem=small --batch=128
  cnn-lab summary --config=experiments/mnist/lenet5.py
  cnn-lab summary --imports=my_layers --model=my_model
"""

import sys

from cnn_lab.cli import runtime
from cnn_lab.cli.flags import (
    CONFIG,
    IMPORTS,
    OPTIONS,
    Flag,
    Invocation,
    imported_config,
    parse_shape,
)
from cnn_lab.config import ModelConfig
from cnn_lab.config.values import Count, NonNegative, Positive, check_options, parse_options
from cnn_lab.core.errors import ConfigError

FLAGS = (
    Flag("model", "name, as `list models` shows; left out, that of --config, with its options"),
    Flag("input", "HEIGHTxWIDTHxCHANNELS; left out, what the model was made for"),
    Flag("num_classes", "left out, as many as in the paper", Count),
    Flag("batch", "examples per training step", Count, 32),
    OPTIONS,
    CONFIG,
    IMPORTS,
    Flag("price_per_kwh", "money per kilowatt-hour", NonNegative, 0.30),
    Flag("picojoules_per_mac", "left out, Horowitz 2014 for the dtype", Positive),
)


def main(invocation: Invocation) -> int:
    """Prints a line per layer, and totals."""
    values = invocation.flags
    config = imported_config(invocation)
    if values.model is not None:
        chosen, where = ModelConfig(name=values.model), "--model"
    elif config is not None:
        chosen, where = config.model, "config.model.name"
    else:
        problem = "--model is missing: give one that `list models` shows, or --config."
        raise ConfigError(problem, where="--model")
    runtime.start_logging()
    from cnn_lab.analysis.cost import cost_of
    from cnn_lab.cli.cost_text import cost_text
    from cnn_lab.models.create import map_shapes
    from cnn_lab.models.registry import MODELS
    from cnn_lab.transfer.plan import stages_of

    entry = MODELS.lookup(chosen.name, where)
    options = check_options(entry.make, chosen.options, "config.model.options")
    options |= parse_options(entry.make, values.option, "--option", chosen.name)
    shape, num_classes = entry.image_shape, values.num_classes or entry.num_classes
    if values.input is not None:
        shape = parse_shape(values.input, shape)
    model = entry.make(num_classes, **options)
    cost = training = cost_of(model, shape)
    if not options and (shape, num_classes) == (entry.image_shape, entry.num_classes):
        entry.verify(cost)
    if any(layer.output_shape is None for layer in cost.layers):
        training = cost_of(model, shape, train=True)
    dtype = options.get("dtype", "float32")
    title = f"{chosen.name}: {entry.title}; {entry.paper}"
    lines = [title, f"input {'x'.join(map(str, shape))}, {num_classes} classes, {dtype}", ""]
    prices = values.price_per_kwh, values.picojoules_per_mac
    lines += cost_text(cost, training, values.batch, dtype, *prices)
    height, width, channels = shape
    maps = map_shapes(model, (height, width, channels)).items()
    lines += ["", "named maps of the backbone, finest first:"]
    lines += [f"  {name:<16} {'x'.join(map(str, sides))}" for name, sides in maps]
    stages = ", ".join(stage.name for stage in stages_of(model, (height, width, channels)))
    lines += ["", f"stages, as --strategy=stages:A,B of finetune names them: {stages}"]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
