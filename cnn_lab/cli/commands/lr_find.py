"""Finds a learning rate for an experiment: a short training whose rate rises from step to step.

It draws the loss over the rate and suggests where the loss fell fastest; where it was lowest is too
high already. Only training data are looked at, no run is begun, and the experiment's own rate and
schedule do not matter.

Examples:
  cnn-lab lr-find --config=experiments/mnist/lenet5.py
  cnn-lab lr-find --config=experiments/mnist/lenet5.py --config.optim.name=muon --out=muon.png
"""

import functools
import json

from cnn_lab.cli import runtime
from cnn_lab.cli.commands.train import load_experiment
from cnn_lab.cli.flags import CONFIG, Flag, Invocation, output_file
from cnn_lab.cli.runtime import log
from cnn_lab.core.files import write_bytes, write_text

FLAGS = (
    CONFIG,
    Flag("out", "picture; figures beside it", default="lr_find.png"),
    Flag("lowest", "rate of the first step", float, 1e-6),
    Flag("highest", "rate of the last step", float, 10.0),
    Flag("num_steps", "steps from one to the other", int, 200),
)


def main(invocation: Invocation) -> int:
    """Runs the test, draws it and prints the suggestion."""
    values = invocation.flags
    config = load_experiment(invocation)
    out = output_file(values.out, ".png")
    runtime.start(config.mesh.num_devices)
    from cnn_lab.data.datasets.catalog import open_dataset
    from cnn_lab.experiment.initialization import complete_config
    from cnn_lab.report.curves import rate_chart
    from cnn_lab.runs.lr_finder import find_rate

    found = find_rate(
        complete_config(config),
        functools.partial(open_dataset, progress=log),
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
