"""The config of a fine-tuning, from a recipe, the run that it starts from, and the data."""

from collections.abc import Callable, Sequence

from cnn_lab.config import (
    AugmentConfig,
    ExperimentConfig,
    OptimConfig,
    ScheduleConfig,
    TaskConfig,
    TrainConfig,
)
from cnn_lab.config.node import freeze, from_dict, override, to_dict
from cnn_lab.core.errors import ConfigError
from cnn_lab.data.datasets.catalog import Dataset, open_dataset
from cnn_lab.data.subsets import choose_examples
from cnn_lab.experiment.initialization import complete_config, source_folder
from cnn_lab.tasks.task import TASKS
from cnn_lab.transfer.plan import check_transfer, choose_strategy
from cnn_lab.workdir.run_dir import read_config

RATE, EPOCHS, LARGEST_BATCH, FEWEST_STEPS = 1e-3, 20, 32, 4  # steps an epoch
HEAD_RATE, HEAD_EPOCHS = 1e-2, 100  # on features, which take no time


def finetune_config(
    recipe: ExperimentConfig,
    overrides: Sequence[tuple[str, str]] = (),
    *,
    usual: bool = True,
    open_data: Callable[..., Dataset] = open_dataset,
    log: Callable[[str], None] = lambda line: None,  # noqa: ARG005
) -> ExperimentConfig:
    """The frozen config of a fine-tuning, for `run_training` or `describe_training`.

    Args:
        recipe: names data and, as `transfer.source`, a run, whose model takes the place of its own.
        overrides: (dotted path, text) of fields that are set whatever the recipe.
        usual: whether the task is the source's where the data fit it, and optimizer, epochs, batch
            size and augmentation are chosen by the strategy and the number of training images, in
            place of the recipe's.
        open_data: (name, data_dir) -> data set; wrap `open_dataset` to show its progress, or to
            refuse data that are not prepared.
        log: takes lines for the user.

    Raises:
        CnnLabError: no source, no such data, or fields that cannot be.
    """
    if recipe.transfer is None:
        problem = "config.transfer is missing: set its source to the folder of a run."
        raise ConfigError(problem, where="config.transfer")
    source = read_config(source_folder(recipe.transfer))
    model, imports = source.model, tuple(dict.fromkeys((*source.imports, *recipe.imports)))
    changed = {"model": to_dict(model), "imports": imports}
    if usual:
        changed["task"] = to_dict(source.task)
    config = from_dict(ExperimentConfig, {**to_dict(recipe), **changed})
    _apply(overrides, config)
    if not usual and recipe.model not in (model, ExperimentConfig().model):
        log(f"The model is the source's, {model.name}, and not that of the recipe.")
    config = complete_config(config)
    if usual:
        _set_usual_recipe(config, open_data)
        _apply(overrides, config)
    return freeze(config)


def _apply(overrides: Sequence[tuple[str, str]], config: ExperimentConfig) -> None:
    for path, text in overrides:
        override(config, path, text)


def _set_usual_recipe(config: ExperimentConfig, open_data: Callable[..., Dataset]) -> None:
    """Sets optimizer, epochs, batch size and augmentation by the number of images."""
    data, transfer = config.data, config.transfer
    assert transfer is not None
    check_transfer(transfer)  # a typo is refused before the data are opened
    dataset = open_data(data.name, data.data_dir)
    kind = dataset.info.target.kind
    if TASKS.lookup(config.task.name, "config.task.name").target_kind != kind:
        config.task = TaskConfig(name="regression" if kind == "numbers" else "classification")
        config.selection.metric = None
    num_train = len(choose_examples(dataset, data)[0])
    strategy = transfer.strategy
    chosen = choose_strategy(num_train)[0] if strategy == "auto" else strategy
    chosen = "rates" if transfer.rates else chosen
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
