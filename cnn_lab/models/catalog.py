"""The one table of models."""

import dataclasses
from collections.abc import Callable

from cnn_lab.models.heads import Classifier
from cnn_lab.models.lenet import lenet5
from cnn_lab.models.simple import linear, mlp, perceptron


@dataclasses.dataclass(frozen=True)
class ModelEntry:
    """A model that can be asked for by name.

    Attributes:
        make: (num_classes, **options) -> module; its signature declares the options.
        title: one line for listings.
        paper: authors, year, venue or arXiv id.
        image_shape: (h, w, c) that the parameter count refers to.
        num_parameters: exact count at `image_shape` and 10 classes.
    """

    make: Callable[..., Classifier]
    title: str
    paper: str
    image_shape: tuple[int, int, int]
    num_parameters: int


MODELS: dict[str, ModelEntry] = {
    "lenet5": ModelEntry(
        lenet5, "LeNet-5", "LeCun et al. 1998, Proceedings of the IEEE 86(11)", (32, 32, 1), 61_706
    ),
    "linear": ModelEntry(
        linear, "Multinomial logistic regression", "Cox 1958, JRSS B 20(2)", (28, 28, 1), 7_850
    ),
    "mlp": ModelEntry(
        mlp, "Multi-layer perceptron", "Rumelhart et al. 1986, Nature 323", (28, 28, 1), 101_770
    ),
    "perceptron": ModelEntry(
        perceptron, "Threshold units", "Rosenblatt 1958, Psych. Review 65(6)", (28, 28, 1), 7_850
    ),
}
