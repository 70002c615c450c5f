"""Heads, and the one `Classifier` that joins a backbone and a head.

A backbone maps images to named feature maps, finest first; the head reads the last one. So
`backbone/` and `head/` begin every parameter's path, whatever the architecture.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax

from cnn_lab.core.shapes import Images, Logits
from cnn_lab.layers.activations import activation
from cnn_lab.layers.dropout import Dropout


class Classifier(nn.Module):
    """A backbone and a head.

    Attributes:
        backbone: images [n h w c] -> named maps, finest first.
        head: last map -> logits [n k].
    """

    backbone: nn.Module
    head: nn.Module

    def __call__(self, images: Images, *, train: bool) -> Logits:
        """Maps images [n h w c] to logits [n k]; `train` turns dropout on."""
        maps = self.backbone(images, train=train)
        return self.head(list(maps.values())[-1], train=train)


class DenseHead(nn.Module):
    """Flatten, hidden dense layers with dropout after each, dense.

    Attributes:
        num_classes: k.
        hidden: widths of the hidden layers.
        activation: name of the activation after each hidden layer.
        dropout_rate: share of each hidden layer's values dropped in training, in [0, 1).
        input_dropout_rate: share of the features dropped in training, in [0, 1).
        output_activation: name of the activation of the outputs.
    """

    num_classes: int
    hidden: Sequence[int] = ()
    activation: str = "relu"
    dropout_rate: float = 0.0
    input_dropout_rate: float = 0.0
    output_activation: str = "identity"

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool) -> Logits:
        """Maps features [n ...] to logits [n k]."""
        x = features.reshape(features.shape[0], -1)
        x = Dropout(self.input_dropout_rate)(x, train=train)
        for index, width in enumerate(self.hidden):
            x = activation(self.activation)(nn.Dense(width, name=f"hidden{index + 1}")(x))
            x = Dropout(self.dropout_rate)(x, train=train)
        return activation(self.output_activation)(nn.Dense(self.num_classes, name="output")(x))
