"""A model of three stages that compiles quickly, and runs that begin with its weights."""

from pathlib import Path
from typing import Any

import flax.linen as nn
import pytest

from cnn_lab.config import (
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    TransferConfig,
)
from cnn_lab.layers.factory import LayerFactory
from cnn_lab.models.heads import Classifier, PooledHead
from cnn_lab.models.registry import MODELS, ModelEntry
from cnn_lab.runs.train import run_training


class _Staged(nn.Module):
    """Three stages of a convolution and a normalisation, which compile quickly."""

    width: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        layers, maps = LayerFactory(), {}
        for name, factor in (("stem", 1), ("stage1", 2), ("stage2", 2)):
            images = layers.conv(factor * self.width, 3, bias=False, name=f"{name}_conv")(images)
            images = nn.relu(layers.norm(train=train, name=f"{name}_bn")(images))
            maps[name] = images
        return maps


def _staged(num_classes: int, width: int = 4) -> Classifier:
    return Classifier(_Staged(width), PooledHead(num_classes))


@pytest.fixture(scope="module")
def staged_model():
    """The model in the table, under two names."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("staged", "other"):
            patch.setitem(MODELS, name, ModelEntry(_staged, "a test's", "none", (8, 8, 1), 0))
        yield


def config(**changes: Any) -> ExperimentConfig:
    fields: dict[str, Any] = {
        "data": DataConfig(num_train=64, num_validation=64),
        "model": ModelConfig(name="staged"),
        "optim": OptimConfig(name="adam", learning_rate=1e-3),
        "train": TrainConfig(num_epochs=2, batch_size=32, log_every_steps=1),
    }
    return ExperimentConfig(**{**fields, **changes})


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, staged_model: None) -> Path:
    """A run to begin with, on images of 10 pixels."""
    folder = tmp_path_factory.mktemp("source") / "run"
    data = DataConfig(num_train=64, num_validation=64, image_size=(10, 10), pad=1)
    run_training(config(data=data), folder, lambda _: None)
    return folder


def tuned(source: Path, strategy: str = "head", **changes: Any) -> ExperimentConfig:
    options = changes.pop("transfer", {})
    transfer = TransferConfig(source=str(source), strategy=strategy, **options)
    return config(transfer=transfer, **changes)


def train(experiment: ExperimentConfig, folder: Path) -> list[str]:
    said: list[str] = []
    assert run_training(experiment, folder, said.append).status == "finished"
    return said
