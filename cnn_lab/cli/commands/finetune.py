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

import re
from collections.abc import Callable
from pathlib import Path

from cnn_lab import config as configs
from cnn_lab.cli import joining
from cnn_lab.cli.commands.train import DRY_RUN, check_compile, end
from cnn_lab.cli.flags import Flag, Invocation
from cnn_lab.cli.runtime import log_if_read as log
from cnn_lab.config import ExperimentConfig
from cnn_lab.config.load import anchor_paths, load_config
from cnn_lab.config.node import freeze, from_dict, override, to_dict
from cnn_lab.core.errors import ConfigError

RATE, EPOCHS, LARGEST_BATCH, FEWEST_STEPS = 1e-3, 20, 32, 4  # steps an epoch
HEAD_RATE, HEAD_EPOCHS = 1e-2, 100  # on features, which take no time
FLAGS = (
    Flag("from", "folder of the source run", needed="give the folder of a run, as runs/resnet18"),
    Flag("data", "data set, or folder:PATH"),
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
    config = _completed(invocation, recipe, primary_log)
    if values.dry_run:
        from cnn_lab.cli.dry_run import dry_run

        dry_run(config, log, compiles=values.compile)
        return 0
    from cnn_lab.runs.train import run_training

    workdir = Path(values.workdir) if values.workdir else _default_workdir(config)
    result = run_training(config, workdir, primary_log, processes=processes)
    again = Invocation(values, [], [])  # the run's config has all overrides
    named = {"config": workdir / "config.json"}
    return end(again, config, workdir, result, processes, named)


def _recipe(invocation: Invocation, source: str) -> ExperimentConfig:
    """The config of the file, if there is one, and of the flags."""
    values = invocation.flags
    if values.config:
        config = load_config(values.config, [])
        config.data.name = values.data or config.data.name
    else:
        config = ExperimentConfig(data=configs.DataConfig(name=values.data))
    config.transfer = config.transfer or configs.TransferConfig()
    config.transfer.source = source
    config.transfer.strategy = values.strategy or config.transfer.strategy
    _override(config, invocation)
    anchor_paths(config.data)
    return config


def _completed(
    invocation: Invocation, recipe: ExperimentConfig, log: Callable[[str], None]
) -> ExperimentConfig:
    """The recipe with what follows from the source, its model first, and from the data."""
    from cnn_lab.experiment.initialization import complete_config, source_folder
    from cnn_lab.transfer.plan import check_transfer
    from cnn_lab.workdir.run_dir import read_config

    assert recipe.transfer is not None
    model = read_config(source_folder(recipe.transfer)).model
    config = from_dict(ExperimentConfig, {**to_dict(recipe), "model": to_dict(model)})
    _override(config, invocation)
    if invocation.flags.config and recipe.model not in (model, ExperimentConfig().model):
        log(f"The model is the source's, {model.name}, and not that of the recipe.")
    config = complete_config(config)
    if not invocation.flags.config:
        assert config.transfer is not None
        check_transfer(config.transfer)  # a typo is refused before the data are opened
        _usual_recipe(config, log)
    _override(config, invocation)
    return freeze(config)


def _default_workdir(config: ExperimentConfig) -> Path:
    """A folder for a source, data and what is trained."""
    transfer = config.transfer
    assert transfer is not None
    way = "rates" if transfer.rates else transfer.strategy
    parts = (transfer.source, config.data.name.removeprefix("folder:"), way)
    names = [re.sub(r"[^\w.]+", "-", Path(part).name).strip("-") for part in parts]
    return Path("runs", "-".join(names))


def _override(config: ExperimentConfig, invocation: Invocation) -> None:
    for path, text in invocation.overrides:
        override(config, path, text)


def _usual_recipe(config: ExperimentConfig, log: Callable[[str], None]) -> None:
    """Sets optimizer, epochs, batch size and augmentation by the number of images."""
    from cnn_lab.data.datasets.catalog import open_dataset
    from cnn_lab.data.subsets import choose_examples
    from cnn_lab.transfer.plan import choose_strategy

    data = config.data
    assert config.transfer is not None
    dataset = open_dataset(data.name, data.data_dir, progress=log)
    num_train = len(choose_examples(dataset, data)[0])
    strategy = config.transfer.strategy
    chosen = choose_strategy(num_train)[0] if strategy == "auto" else strategy
    chosen = "rates" if config.transfer.rates else chosen
    rate, num_epochs = RATE, EPOCHS
    if chosen in ("head", "logistic"):  # a frozen backbone runs once, over images as they are
        rate, num_epochs = HEAD_RATE, HEAD_EPOCHS
        config.evaluate.every_epochs = HEAD_EPOCHS // EPOCHS
    else:
        data.augment = configs.AugmentConfig(strength="light")
    schedule = configs.ScheduleConfig(name="cosine")
    config.optim = configs.OptimConfig(name="adamw", learning_rate=rate, schedule=schedule)
    batch_size = max(1, min(LARGEST_BATCH, num_train // FEWEST_STEPS))
    config.train = configs.TrainConfig(num_epochs=num_epochs, batch_size=batch_size)
    log(
        f"Recipe: {config.optim.name} at a rate of {rate:g}, cosine, {num_epochs} epochs, batches "
        f"of {batch_size}, augmentation {data.augment.strength}, unless fields of the config say "
        "otherwise."
    )
    config.train.log_every_steps = config.evaluate.every_epochs * -(-num_train // batch_size)
