"""Perceptron, linear classifier and multi-layer perceptron: the nets without convolutions."""

from typing import Literal

import flax.linen as nn
import jax

from cnn_lab.config.values import Count, ProperFraction
from cnn_lab.core.arrays import Images
from cnn_lab.core.errors import ConfigError
from cnn_lab.layers.channels import Maxout
from cnn_lab.layers.factory import Dtype, LayerFactory
from cnn_lab.models.heads import Classifier, DenseHead, hidden_layer
from cnn_lab.models.registry import register


class Dense(nn.Module):
    """Flattened pixels through dense layers; without layers, the pixels themselves.

    Attributes:
        widths: values per layer; see `mlp` for the other fields.
    """

    widths: tuple[int, ...] = ()
    layers: LayerFactory = LayerFactory()
    dropout_rate: float = 0.0
    drop_connect_rate: float = 0.0
    pieces: int = 1

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> dict[str, jax.Array]:
        """Maps images [n h w c] to `pixels` [n h*w*c] and one `denseI` [n d] per layer."""
        x = images.reshape(images.shape[0], -1)
        maps = {"pixels": x}
        for index, width in enumerate(self.widths):
            name = f"dense{index + 1}"
            if self.pieces > 1:
                x = Maxout(width, self.pieces, layers=self.layers, name=name)(x)
            else:
                x = hidden_layer(x, width, self.layers, self.drop_connect_rate, name, train=train)
            x = self.layers.dropout(self.dropout_rate)(x, train=train)
            maps[name] = x
        return maps


@register(
    "perceptron",
    "Threshold units",
    "Rosenblatt 1958, Psych. Review 65(6)",
    (28, 28, 1),
    num_parameters=7_850,
    macs=7_840,
    small=({}, (28, 28, 1)),
)
def perceptron(num_classes: int, dtype: Dtype = "float32") -> Classifier:
    """One threshold unit per class (Rosenblatt 1958, Psychological Review 65(6)).

    Outputs are 0 or 1. Train it with `task.loss = 'squared_error'` and `sgd`: that is the
    perceptron rule.
    Differs from the paper: one unit per class instead of one in all; no random association layer.
    """
    layers = LayerFactory(dtype=dtype)
    return Classifier(Dense(), DenseHead(num_classes, layers=layers, output_activation="threshold"))


@register(
    "linear",
    "Multinomial logistic regression",
    "Cox 1958, JRSS B 20(2)",
    (28, 28, 1),
    num_parameters=7_850,
    macs=7_840,
    small=({}, (28, 28, 1)),
)
def linear(num_classes: int, dtype: Dtype = "float32") -> Classifier:
    """Multinomial logistic regression: one dense layer on the pixels (Cox 1958, JRSS B 20(2))."""
    return Classifier(Dense(), DenseHead(num_classes, layers=LayerFactory(dtype=dtype)))


@register(
    "mlp",
    "Multi-layer perceptron",
    "Rumelhart et al. 1986, Nature 323",
    (28, 28, 1),
    num_parameters=101_770,
    macs=101_632,
    small=({}, (28, 28, 1)),
)
def mlp(
    num_classes: int,
    hidden: tuple[Count, ...] = (128,),
    activation: str = "relu",
    dropout_rate: ProperFraction = 0.0,
    dropout_scaling: Literal["training", "evaluation"] = "training",
    drop_connect_rate: ProperFraction = 0.0,
    pieces: Count = 1,
    kernel_init: str = "lecun_normal",
    dtype: Dtype = "float32",
) -> Classifier:
    """Dense layers on the pixels.

    Args:
        hidden: widths of the hidden layers.
        dropout_rate: share of each hidden layer's values dropped in training, in [0, 1).
        drop_connect_rate: share of each hidden layer's weights dropped in training, in [0, 1).
        pieces: linear functions per hidden value, of which the largest counts (maxout; Goodfellow
            et al. 2013, arXiv:1302.4389); with more than 1 there is no other activation.
        kernel_init: name of the initialiser.
    """
    if pieces > 1 and drop_connect_rate:
        raise ConfigError(
            where="config.model.options.drop_connect_rate",
            found=drop_connect_rate,
            allowed=f"0 in an mlp with pieces={pieces}",
            advice="or leave pieces at 1",
        )
    layers = LayerFactory(
        activation, dense_init=kernel_init, dtype=dtype, dropout_scaling=dropout_scaling
    )
    backbone = Dense(tuple(hidden), layers, dropout_rate, drop_connect_rate, pieces)
    return Classifier(backbone, DenseHead(num_classes, layers=layers))
