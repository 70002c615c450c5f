"""Perceptron, linear classifier and multi-layer perceptron: the nets without convolutions."""

import flax.linen as nn
import jax

from cnn_lab.core.ranges import Count, ProperFraction
from cnn_lab.core.shapes import Images
from cnn_lab.layers.activations import activation
from cnn_lab.models.heads import Classifier, DenseHead


class Dense(nn.Module):
    """Flattened pixels through dense layers; without layers, the pixels themselves.

    Attributes:
        widths: values per layer.
        activation: name of the activation after each layer.
        dropout_rate: share of each layer's values dropped in training, in [0, 1).
    """

    widths: tuple[int, ...] = ()
    activation: str = "relu"
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> dict[str, jax.Array]:
        """Maps images [n h w c] to `pixels` [n h*w*c] and one `denseI` [n d] per layer."""
        x = images.reshape(images.shape[0], -1)
        maps = {"pixels": x}
        for index, width in enumerate(self.widths):
            name = f"dense{index + 1}"
            x = activation(self.activation)(nn.Dense(width, name=name)(x))
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
            maps[name] = x
        return maps


def perceptron(num_classes: int) -> Classifier:
    """One threshold unit per class (Rosenblatt 1958, Psychological Review 65(6)).

    Outputs are 0 or 1. Train it with `task.loss = 'squared_error'` and `sgd`: that is the
    perceptron rule.
    Differs from the paper: one unit per class instead of one in all; no random association layer.
    """
    return Classifier(Dense(), DenseHead(num_classes, output_activation="threshold"))


def linear(num_classes: int) -> Classifier:
    """Multinomial logistic regression: one dense layer on the pixels."""
    return Classifier(Dense(), DenseHead(num_classes))


def mlp(
    num_classes: int,
    hidden: tuple[Count, ...] = (128,),
    activation: str = "relu",
    dropout_rate: ProperFraction = 0.0,
) -> Classifier:
    """Dense layers on the pixels.

    Args:
        num_classes: k.
        hidden: widths of the hidden layers.
        activation: name of the activation after each hidden layer.
        dropout_rate: share of each hidden layer's values dropped in training, in [0, 1).
    """
    return Classifier(Dense(tuple(hidden), activation, dropout_rate), DenseHead(num_classes))
