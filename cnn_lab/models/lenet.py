"""LeNet-5 (LeCun, Bottou, Bengio, Haffner 1998, "Gradient-based learning applied to document
recognition", Proceedings of the IEEE 86(11), section II.B).

Differs from the paper: by default every map of C3 sees every map of S2 (61,706 parameters, the
count that is quoted today) and subsampling has no trainable coefficients; `connection='partial'`
and `pooling='trainable'` bring the paper's forms back. The output is a dense layer with softmax
cross-entropy instead of radial basis functions.
"""  # noqa: D205 - the title is a citation

from typing import Any, Literal

import flax.linen as nn
import jax
import numpy as np

from cnn_lab.core.errors import ConfigError
from cnn_lab.core.ranges import ProperFraction
from cnn_lab.core.shapes import Images
from cnn_lab.layers.activations import MONOTONE, activation
from cnn_lab.layers.convolution import Conv, conv_general_dilated
from cnn_lab.layers.dropout import Dropout
from cnn_lab.layers.pooling import average_pool, max_pool
from cnn_lab.models.heads import Classifier, DenseHead

# Table I of the paper: the maps of S2 that each map of C3 sees.
C3_SEES = (
    *((i % 6, (i + 1) % 6, (i + 2) % 6) for i in range(6)),
    *((i % 6, (i + 1) % 6, (i + 2) % 6, (i + 3) % 6) for i in range(6)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    tuple(range(6)),
)
SMALLEST_SIDE = 16  # below, nothing is left after the second subsampling


class LeNet5Backbone(nn.Module):
    """C1 to C5: convolutions 6@5x5, 16@5x5, 120@whole map, subsampled by two in between.

    Attributes:
        activation: name of the activation after each layer.
        pooling: `average`, `max`, or `trainable` (average with a coefficient and a bias a map).
        connection: `full`, or `partial` for the paper's table of connections.
        dropout_rate: share of S4's values dropped in training, in [0, 1).
    """

    activation: str = "tanh"
    pooling: Literal["average", "max", "trainable"] = "average"
    connection: Literal["full", "partial"] = "full"
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> dict[str, jax.Array]:
        """Maps images [n h w c] (32x32 in the paper) to maps `s2`, `s4`, `c5`."""
        height, width = images.shape[1:3]
        if min(height, width) < SMALLEST_SIDE:
            raise ConfigError(
                f"lenet5 takes images of at least {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels; found "
                f"{height}x{width}; set data.image_size or data.pad."
            )
        act = activation(self.activation)
        mask = None
        if self.connection == "partial":
            mask = np.zeros((5, 5, 6, 16), np.float32)
            for feature, seen in enumerate(C3_SEES):
                mask[:, :, list(seen), feature] = 1
        options: dict[str, Any] = {"padding": "VALID"}
        if self.pooling == "max" and self.activation in MONOTONE:
            # The same as pooling last, with bias and activation on a quarter of the values.
            options["conv_general_dilated"] = _pooled_convolution
        s2 = self._subsample(Conv(6, (5, 5), name="c1", **options)(images), "s2")
        s4 = self._subsample(Conv(16, (5, 5), mask=mask, name="c3", **options)(s2), "s4")
        kept = Dropout(self.dropout_rate)(s4, train=train)
        # A convolution that covers the whole map is one dense product; on 32x32 images it is 5x5.
        c5 = act(nn.DenseGeneral(120, axis=(-3, -2, -1), name="c5")(kept))
        return {"s2": s2, "s4": s4, "c5": c5}

    def _subsample(self, x: jax.Array, name: str) -> jax.Array:
        act = activation(self.activation)
        if self.pooling == "max" and self.activation in MONOTONE:
            return act(x)
        if self.pooling == "max":
            return max_pool(act(x), 2)
        pooled = average_pool(act(x), 2)
        if self.pooling == "average":
            return pooled
        shape = (x.shape[-1],)
        coefficient = self.param(f"{name}_coefficient", nn.initializers.ones, shape)
        bias = self.param(f"{name}_bias", nn.initializers.zeros, shape)
        return act(pooled * coefficient[None, None, None] + bias[None, None, None])


def _pooled_convolution(*arguments: Any, **options: Any) -> jax.Array:
    return max_pool(conv_general_dilated(*arguments, **options), 2)


def lenet5(
    num_classes: int,
    activation: str = "tanh",
    pooling: Literal["average", "max", "trainable"] = "average",
    connection: Literal["full", "partial"] = "full",
    dropout_rate: ProperFraction = 0.0,
    map_dropout_rate: ProperFraction = 0.0,
) -> Classifier:
    """LeNet-5: the backbone C1..C5, then F6 (84) and the output layer as the head.

    Args:
        num_classes: k.
        activation: name of the activation after each layer.
        pooling: `average`, `max` or `trainable`.
        connection: `full` or `partial` (the paper's table I).
        dropout_rate: share of C5 and of F6 dropped in training, in [0, 1).
        map_dropout_rate: share of the maps of S4 dropped in training, value by value, in [0, 1).
    """
    head = DenseHead(num_classes, (84,), activation, dropout_rate, input_dropout_rate=dropout_rate)
    return Classifier(LeNet5Backbone(activation, pooling, connection, map_dropout_rate), head)
