"""Finds a learning rate for an experiment: a short training whose rate rises from step to step.

It draws the loss over the rate and suggests where the loss fell fastest; where it was lowest is too
high already. Only training data are looked at, no run is begun, and the experiment's own rate and
schedule do not matter.

Examples:
  cnn-lab lr-find --config=experiments/mnist/lenet5.py
  cnn-lab lr-find --config=experiments/mnist/lenet5.py --config.optim.name=muon --out=muon.png
"""

import json

from absl import flags

from cnn_lab.cli import runtime
from cnn_lab.cli.commands.train import require_data
from cnn_lab.cli.main import Invocation
from cnn_lab.cli.runtime import log, picture_path
from cnn_lab.config.load import load_config
from cnn_lab.config.node import freeze
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.files import write_bytes, write_text


def define_flags(values: flags.FlagValues) -> None:
    """Declares the flags of this command."""
    flags.DEFINE_string(
        "config", None, "experiment file FILE.py[:ARGUMENT], or a config.json", flag_values=values
    )
    flags.DEFINE_string("out", "lr_find.png", "picture; figures beside it", flag_values=values)
    flags.DEFINE_float("lowest", 1e-6, "rate of the first step", flag_values=values)
    flags.DEFINE_float("highest", 10.0, "rate of the last step", flag_values=values)
    flags.DEFINE_integer("num_steps", 200, "steps from one to the other", flag_values=values)


def main(invocation: Invocation) -> int:
    """Runs the test, draws it and prints the suggestion."""
    values = invocation.flags
    if invocation.arguments:
        raise ConfigError(f"lr-find takes flags only; found {invocation.arguments[0]!r}.")
    config = freeze(load_config(values.config, invocation.overrides))
    require_data(config, values.config)
    out = picture_path(values.out)
    runtime.start(config.mesh.num_devices)
    from functools import partial

    from cnn_lab.data.datasets.catalog import open_dataset
    from cnn_lab.experiment.initialization import complete_config
    from cnn_lab.report.curves import rate_chart
    from cnn_lab.runs.lr_finder import find_rate

    found = find_rate(
        complete_config(config),
        partial(open_dataset, progress=log),
        log,
        lowest=values.lowest,
        highest=values.highest,
        num_steps=values.num_steps,
    )
    title = f"{config.model.name} on {config.data.name}, {config.optim.name}"
    write_bytes(out, rate_chart(found, title=title))
    table = {"rates": found.rates.tolist(), "losses": found.losses.tolist()}
    write_text(out.with_suffix(".json"), json.dumps({**table, "steepest": found.steepest}))
    log(f"The loss fell fastest at a rate of {found.steepest:.2g}.")
    if found.still_falling:
        log(f"It was still falling at {found.lowest:.2g}: a --highest above that would show more.")
    else:
        log(f"It was lowest at {found.lowest:.2g}, beyond which it rose.")
    log("Try as the peak of a schedule:")
    log(f"  --config.optim.learning_rate={found.steepest:.2g}")
    log(f"  picture  {out}")
    log(f"  figures  {out.with_suffix('.json')}")
    return 0
