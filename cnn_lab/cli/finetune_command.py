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
from pathlib import Path

from absl import flags

from cnn_lab.cli import runtime
from cnn_lab.cli.config_flag import anchor_paths, load_config
from cnn_lab.cli.main import Invocation
from cnn_lab.cli.output import say_if_read as say
from cnn_lab.cli.train_command import tell_where_it_is
from cnn_lab.config import (
    AugmentConfig,
    DataConfig,
    ExperimentConfig,
    OptimConfig,
    ScheduleConfig,
    TrainConfig,
    TransferConfig,
)
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.typed import freeze, from_dict, override, to_dict

RATE, EPOCHS, LARGEST_BATCH, FEWEST_STEPS = 1e-3, 20, 32, 4  # steps an epoch
HEAD_RATE, HEAD_EPOCHS = 1e-2, 100  # on features, which take no time


def define_flags(values: flags.FlagValues) -> None:
    """Declares the flags of this command."""
    flags.DEFINE_string("from", None, "folder of the source run", flag_values=values)
    flags.DEFINE_string("data", None, "data set, or folder:PATH", flag_values=values)
    flags.DEFINE_string(
        "strategy",
        "auto",
        "auto, head, last_stages:N, stages:A,B, all, gradual or logistic",
        flag_values=values,
    )
    flags.DEFINE_string(
        "config", None, "experiment file FILE.py[:ARGUMENT] with the recipe", flag_values=values
    )
    flags.DEFINE_string(
        "workdir", None, "folder of the run; named by source and data", flag_values=values
    )


def main(invocation: Invocation) -> int:
    """Puts the config together and trains."""
    values = invocation.flags
    if invocation.arguments:
        raise ConfigError(f"finetune takes flags only; found {invocation.arguments[0]!r}.")
    source = values["from"].value
    if not source:
        raise ConfigError("--from is missing: give the folder of a run, such as runs/resnet18.")
    if not values.data and not values.config:
        raise ConfigError("--data is missing: give a data set, such as --data=folder:photos.")
    runtime.start(_num_devices(invocation))
    from cnn_lab.run import run_training

    config = _config(invocation, source)
    name = re.sub(r"\W+", "-", config.data.name).strip("-")
    workdir = Path(values.workdir or Path("runs", f"{Path(source).resolve().name}-{name}"))
    result = run_training(config, workdir, say)
    if result.status == "interrupted":
        say(f"Interrupted at step {result.progress.step}; everything is saved. Resume with:")
        say(f"  cnn-lab train --config={workdir / 'config.json'}")
    else:
        tell_where_it_is(config, workdir, result)
    return 0


def _num_devices(invocation: Invocation) -> int | None:
    config = ExperimentConfig()
    for path, text in invocation.overrides:
        if path.startswith("mesh."):
            override(config, path, text)
    return config.mesh.num_devices


def _config(invocation: Invocation, source: str) -> ExperimentConfig:
    """The recipe of the file or the usual one, with the source's model, and then the overrides."""
    from cnn_lab.beginning import adopt
    from cnn_lab.train.workdir import read_config

    values = invocation.flags
    if values.config:
        config = load_config(values.config, [])
        config.data.name = values.data or config.data.name
    else:
        config = ExperimentConfig(data=DataConfig(name=values.data))
    model = to_dict(read_config(Path(source)).model)
    config = from_dict(ExperimentConfig, {**to_dict(config), "model": model})
    config.transfer = config.transfer or TransferConfig()
    config.transfer.source, config.transfer.strategy = source, values.strategy
    for path, text in invocation.overrides:
        override(config, path, text)
    anchor_paths(config.data)
    config = adopt(config)
    if not values.config:
        _usual_recipe(config)
        for path, text in invocation.overrides:
            override(config, path, text)
    return freeze(config)


def _usual_recipe(config: ExperimentConfig) -> None:
    """What suits so many images."""
    from cnn_lab.data.catalog import open_dataset
    from cnn_lab.data.examples import choose_examples
    from cnn_lab.transfer.plan import choose

    data = config.data
    assert config.transfer is not None
    dataset = open_dataset(data.name, data.data_dir, progress=say)
    num_train = len(choose_examples(dataset, data)[0])
    strategy = config.transfer.strategy
    chosen = choose(num_train)[0] if strategy == "auto" else strategy
    rate, num_epochs = RATE, EPOCHS
    if chosen in ("head", "logistic"):  # a frozen backbone runs once, over images as they are
        rate, num_epochs = HEAD_RATE, HEAD_EPOCHS
        config.evaluate.every_epochs = HEAD_EPOCHS // EPOCHS
    else:
        data.augment = AugmentConfig(strength="light")
    schedule = ScheduleConfig(name="cosine")
    config.optim = OptimConfig(name="adamw", learning_rate=rate, schedule=schedule)
    batch_size = max(1, min(LARGEST_BATCH, num_train // FEWEST_STEPS))
    config.train = TrainConfig(num_epochs=num_epochs, batch_size=batch_size)
    config.train.log_every_steps = config.evaluate.every_epochs * -(-num_train // batch_size)
