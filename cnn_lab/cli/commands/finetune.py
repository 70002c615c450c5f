"""Trains a network further on other data, from the weights of a run.

The source is any run: one of your own, or imported weights. Size, channels and normalisation of the
images, the classes and the head follow from the source and the data. What is trained is said by
--strategy: `head` alone; `last_stages:N`, the head and that many stages before it; `stages:A,B`,
the stages of these names; `all`; `gradual`, the head first and then stage after stage; `logistic`,
the output layer alone, fitted to its optimum; `auto` goes by the number of images. A table shows it
before the training begins. Everything else is a field of the config, as for `cnn-lab train`
(`cnn-lab help config` lists them), such as --config.transfer.l2_sp=0.01.

Examples:
  cnn-lab finetune --from=runs/resnet18 --data=folder:photos
  cnn-lab finetune --from=runs/resnet18 --data=folder:photos --strategy=last_stages:2
  cnn-lab finetune --from=runs/a --data=mnist --config.data.num_train=100 --workdir=runs/b
  cnn-lab finetune --from=runs/a --config=experiments/cifar10/resnet20.py --strategy=all
"""

import functools
import re
from pathlib import Path

from cnn_lab import config as configs
from cnn_lab.cli import joining
from cnn_lab.cli.commands.train import DRY_RUN, check_compile, end
from cnn_lab.cli.flags import Flag, Invocation
from cnn_lab.cli.runtime import log_if_read as log
from cnn_lab.config import ExperimentConfig
from cnn_lab.config.imports import import_modules
from cnn_lab.config.load import anchor_paths, load_config
from cnn_lab.config.node import override
from cnn_lab.core.errors import ConfigError

FLAGS = (
    Flag("from", "folder of the source run", needed="give the folder of a run, as runs/resnet18"),
    Flag("data", "data set, folder:PATH or table:FILE"),
    Flag(
        "strategy",
        "auto (as when left out), head, last_stages:N, stages:A,B, all, gradual or logistic",
    ),
    Flag("config", "experiment file FILE.py[:ARGUMENT] with the recipe"),
    Flag("workdir", "folder of the run; named by source, data, strategy"),
    *DRY_RUN,
    *joining.FLAGS,
)


def main(invocation: Invocation) -> int:
    """Puts the config together and trains."""
    values = invocation.flags
    source = str(values["from"].value)
    if not values.data and not values.config:
        raise ConfigError(
            "--data is missing: give a data set, such as --data=folder:photos.", where="--data"
        )
    if Path(source).is_file():
        raise ConfigError(
            f"--from={source} is a file; give the folder of a run, which cnn-lab import-weights "
            "makes of weights from elsewhere.",
            where="--from",
            found=source,
        )
    if any(path == "transfer.source" for path, _ in invocation.overrides):
        raise ConfigError(
            f"--from={source} and --config.transfer.source both name a source; leave out the "
            "second one.",
            where="--from",
            found=source,
        )
    check_compile(invocation)
    recipe = _recipe(invocation, source)
    processes = joining.start(values, recipe)
    primary_log = log if processes.is_primary else lambda _: None
    from cnn_lab.runs.finetune import finetune_config

    complete = functools.partial(
        finetune_config, recipe, invocation.overrides, usual=not values.config, log=primary_log
    )
    if values.dry_run:
        from cnn_lab.cli.dry_run import dry_run
        from cnn_lab.runs.describe import traceless_data

        with traceless_data() as open_data:
            config = complete(open_data=open_data)
        dry_run(config, log, compiles=values.compile)
        return 0
    from cnn_lab.data.datasets.catalog import open_dataset
    from cnn_lab.runs.train import run_training

    config = complete(open_data=functools.partial(open_dataset, progress=primary_log))
    workdir = Path(values.workdir) if values.workdir else _default_workdir(config)
    result = run_training(config, workdir, primary_log, processes=processes)
    again = Invocation(values, [], [])  # the run's config has all overrides
    named = {"config": workdir / "config.json"}
    return end(again, workdir, result, processes, named)


def _recipe(invocation: Invocation, source: str) -> ExperimentConfig:
    """The config of the file, if there is one, and of the flags."""
    values = invocation.flags
    if values.config:
        config = load_config(values.config, invocation.overrides)
        config.data.name = values.data or config.data.name
    else:
        config = ExperimentConfig(data=configs.DataConfig(name=values.data))
    config.transfer = config.transfer or configs.TransferConfig()
    config.transfer.source = source
    config.transfer.strategy = values.strategy or config.transfer.strategy
    for path, text in invocation.overrides:
        override(config, path, text)
    import_modules(config.imports)
    anchor_paths(config.data)
    return config


def _default_workdir(config: ExperimentConfig) -> Path:
    """A folder for a source, data and what is trained."""
    transfer = config.transfer
    assert transfer is not None
    way = "rates" if transfer.rates else transfer.strategy
    parts = (transfer.source, config.data.name.removeprefix("folder:"), way)
    names = [re.sub(r"[^\w.]+", "-", Path(part).name).strip("-") for part in parts]
    return Path("runs", "-".join(names))
