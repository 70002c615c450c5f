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

from cnn_lab.config.values import ProperFraction
from cnn_lab.core.arrays import Images
from cnn_lab.layers.convolution import Conv, conv_general_dilated
from cnn_lab.layers.dropout import DropConnectConv
from cnn_lab.layers.factory import MONOTONE, Dtype, LayerFactory, initializer
from cnn_lab.layers.pooling import average_pool, max_pool
from cnn_lab.models.heads import Classifier, DenseHead
from cnn_lab.models.inputs import require_size
from cnn_lab.models.registry import register

# Table I of the paper: the maps of S2 that each map of C3 sees.
C3_SEES = (
    *((i % 6, (i + 1) % 6, (i + 2) % 6) for i in range(6)),
    *((i % 6, (i + 1) % 6, (i + 2) % 6, (i + 3) % 6) for i in range(6)),
    (0, 1, 3, 4),
    (1, 2, 4, 5),
    (0, 2, 3, 5),
    tuple(range(6)),
)
SMALLEST_SIDE = 16  # below, nothing is left after the second subsampling


class LeNet5Backbone(nn.Module):
    """C1 to C5: convolutions 6@5x5, 16@5x5, 120@whole map, subsampled by two in between.

    Attributes:
        dropout_rate: share of S4's values dropped in training.
        drop_connect_rate: share of C5's weights dropped in training.
    """

    layers: LayerFactory = LayerFactory("tanh", "lecun_normal")
    pooling: Literal["average", "max", "trainable"] = "average"
    connection: Literal["full", "partial"] = "full"
    dropout_rate: float = 0.0
    drop_connect_rate: float = 0.0

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> dict[str, jax.Array]:
        """Maps images [n h w c] (32x32 in the paper) to maps `s2`, `s4`, `c5`."""
        require_size(images, SMALLEST_SIDE, "lenet5")
        layers = self.layers
        mask = None
        if self.connection == "partial":
            mask = np.zeros((5, 5, 6, 16), np.float32)
            for feature, seen in enumerate(C3_SEES):
                mask[:, :, list(seen), feature] = 1
        init, dtype = initializer(layers.kernel_init), layers.dtype
        options: dict[str, Any] = {"padding": "VALID", "kernel_init": init, "dtype": dtype}
        if self.pooling == "max" and layers.activation in MONOTONE:
            # The same as pooling last, with bias and activation on a quarter of the values.
            options["conv_general_dilated"] = lambda *given, **named: max_pool(
                conv_general_dilated(*given, **named), 2
            )
        s2 = self._subsample(Conv(6, (5, 5), name="c1", **options)(images), "s2")
        s4 = self._subsample(Conv(16, (5, 5), mask=mask, name="c3", **options)(s2), "s4")
        x = layers.dropout(self.dropout_rate)(s4, train=train)
        # C5 covers the whole map, which on 32x32 images is 5x5.
        if self.drop_connect_rate:
            c5 = DropConnectConv(
                120,
                rate=self.drop_connect_rate,
                kernel_size=x.shape[1:3],
                padding="VALID",
                kernel_init=init,
                dtype=dtype,
                name="c5",
            )
            x = c5(x, train=train)[:, 0, 0]
        else:  # one dense product
            axes = (-3, -2, -1)
            x = nn.DenseGeneral(120, axis=axes, kernel_init=init, dtype=dtype, name="c5")(x)
        return {"s2": s2, "s4": s4, "c5": layers.act(x)}

    def _subsample(self, x: jax.Array, name: str) -> jax.Array:
        act = self.layers.act
        if self.pooling == "max" and self.layers.activation in MONOTONE:
            return act(x)
        if self.pooling == "max":
            return max_pool(act(x), 2)
        pooled = average_pool(act(x), 2)
        if self.pooling == "average":
            return pooled
        shape = (x.shape[-1],)
        coefficient = self.param(f"{name}_coefficient", nn.initializers.ones, shape).astype(x.dtype)
        bias = self.param(f"{name}_bias", nn.initializers.zeros, shape).astype(x.dtype)
        return act(pooled * coefficient[None, None, None] + bias[None, None, None])


@register(
    "lenet5",
    "LeNet-5",
    "LeCun et al. 1998, Proceedings of the IEEE 86(11)",
    (32, 32, 1),
    num_parameters=61_706,
    macs=416_520,
    small=({}, (32, 32, 1)),
)
def lenet5(
    num_classes: int,
    activation: str = "tanh",
    pooling: Literal["average", "max", "trainable"] = "average",
    connection: Literal["full", "partial"] = "full",
    dropout_rates: tuple[ProperFraction, ProperFraction, ProperFraction] = (0.0, 0.0, 0.0),
    dropout_scaling: Literal["training", "evaluation"] = "training",
    drop_connect_rate: ProperFraction = 0.0,
    kernel_init: str = "lecun_normal",
    dtype: Dtype = "float32",
) -> Classifier:
    """LeNet-5: the backbone C1..C5, then F6 (84) and the output layer as the head.

    Args:
        pooling: `average`, `max`, or `trainable` (average with a coefficient and a bias a map).
        connection: `full` or `partial` (the paper's table I).
        dropout_rates: shares of the values of S4, C5 and F6 dropped in training, in [0, 1).
        drop_connect_rate: share of the weights of C5 and F6 dropped in training, in [0, 1).
        kernel_init: name of the initialiser of all kernels.
    """
    layers = LayerFactory(
        activation, kernel_init, kernel_init, dtype, dropout_scaling=dropout_scaling
    )
    of_s4, of_c5, of_f6 = dropout_rates
    head = DenseHead(num_classes, (84,), layers, of_f6, of_c5, drop_connect_rate=drop_connect_rate)
    backbone = LeNet5Backbone(layers, pooling, connection, of_s4, drop_connect_rate)
    return Classifier(backbone, head)
