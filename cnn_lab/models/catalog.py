"""The one table of models: what each file of architectures lists."""

from cnn_lab.models import lenet, resnet, simple
from cnn_lab.models.entry import ModelEntry

MODELS: dict[str, ModelEntry] = dict(
    sorted({**lenet.ENTRIES, **resnet.ENTRIES, **simple.ENTRIES}.items())
)
