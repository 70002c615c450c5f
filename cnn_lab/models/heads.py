"""Heads, and what joins a backbone and a head: `Classifier`, or `ImageToImage`.

A backbone maps images to named feature maps, finest first; a classifier's head reads the last one,
that of an image-to-image model all. So every parameter's path starts with `backbone/` or `head/`,
whatever the architecture.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn_lab.core.arrays import Images, Logits
from cnn_lab.layers.dropout import DropConnect
from cnn_lab.layers.factory import LayerFactory, activation, initializer
from cnn_lab.layers.pooling import adaptive_average_pool, global_average_pool
from cnn_lab.layers.windows import Size
from cnn_lab.tasks.task import WithAuxiliary


class Classifier(nn.Module):
    """A backbone and a head, and perhaps auxiliary heads that only training reads.

    Attributes:
        backbone: images [n h w c] -> named maps, finest first.
        head: last map -> logits [n k].
        auxiliary: heads by the name of the map that they read.
        auxiliary_weight: of each auxiliary loss beside the head's.
    """

    backbone: nn.Module
    head: nn.Module
    auxiliary: Mapping[str, nn.Module] | None = None
    auxiliary_weight: float = 0.3

    def __call__(self, images: Images, *, train: bool) -> Logits | WithAuxiliary:
        """Maps normalised images [n h w c] to float32 logits [n k].

        `train` turns dropout, batch statistics and the auxiliary heads on.
        """
        maps = self.backbone(images, train=train)
        logits = self.head(list(maps.values())[-1], train=train).astype(jnp.float32)
        if not self.auxiliary or not (train or self.is_initializing()):
            return logits
        others = tuple(
            head(maps[name], train=train).astype(jnp.float32)
            for name, head in self.auxiliary.items()
        )
        return WithAuxiliary(logits, others, self.auxiliary_weight)

    def features(self, images: Images) -> jax.Array:
        """Features that the head makes its logits of, as in evaluation and pooled [n ...]."""
        maps = self.backbone(images, train=False)
        return self.head.pooled(list(maps.values())[-1])


class HeadAlone(nn.Module):
    """A classifier's head, of the same paths, for features that were computed before."""

    head: nn.Module

    def __call__(self, features: jax.Array, *, train: bool) -> Logits:
        """Maps `Classifier.features` [n ...] to float32 logits [n k]."""
        return self.head(features, train=train).astype(jnp.float32)


class ImageToImage(nn.Module):
    """A backbone, and a head that goes back to one vector per pixel.

    Attributes:
        backbone: images [n h w c] -> named maps, finest first.
        head: (all maps, (h, w, c) of the images) -> [n h w k].
    """

    backbone: nn.Module
    head: nn.Module

    def __call__(self, images: Images, *, train: bool) -> Float[Array, "n h w k"]:
        """Maps normalised images [n h w c] to float32 logits or values [n h w k]."""
        maps = self.backbone(images, train=train)
        return self.head(maps, images.shape[1:], train=train).astype(jnp.float32)


class DenseHead(nn.Module):
    """Flatten, hidden dense layers with dropout after each, dense.

    Attributes:
        input_dropout_rate: share of the features dropped in training, in [0, 1), as `dropout_rate`
            of each hidden layer's values and `drop_connect_rate` of its weights.
        pooled_size: side, or (rows, columns), that maps are brought to before, by averaging; None
            leaves them.
        output_init: name of the last layer's initialiser; None is the factory's.
    """

    num_classes: int
    hidden: Sequence[int] = ()
    layers: LayerFactory = LayerFactory()
    dropout_rate: float = 0.0
    input_dropout_rate: float = 0.0
    output_activation: str = "identity"
    pooled_size: Size | None = None
    output_init: str | None = None
    drop_connect_rate: float = 0.0

    def pooled(self, features: jax.Array) -> jax.Array:
        """The part of features [n ...] that the layers see; pooled again, it stays the same."""
        if self.pooled_size is None:
            return features
        return adaptive_average_pool(features, self.pooled_size)

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool) -> Logits:
        """Maps features [n ...] to logits [n k]."""
        x = self.pooled(features).reshape(features.shape[0], -1)
        x = self.layers.dropout(self.input_dropout_rate)(x, train=train)
        for index, width in enumerate(self.hidden):
            x = hidden_layer(
                x,
                width,
                self.layers,
                drop_connect_rate=self.drop_connect_rate,
                name=f"hidden{index + 1}",
                train=train,
            )
            x = self.layers.dropout(self.dropout_rate)(x, train=train)
        last = dataclasses.replace(
            self.layers, dense_init=self.output_init or self.layers.dense_init
        )
        logits = last.dense(self.num_classes, name="output")(x)
        return activation(self.output_activation)(logits)


def hidden_layer(
    x: jax.Array,
    width: int,
    layers: LayerFactory,
    drop_connect_rate: float,
    name: str,
    *,
    train: bool,
) -> jax.Array:
    """A dense layer [... d] to [... width] of a module, whose weights may be dropped, activated."""
    if not drop_connect_rate:
        return layers.act(layers.dense(width, name=name)(x))
    init = initializer(layers.dense_init)
    layer = DropConnect(width, drop_connect_rate, init, layers.dtype, name=name)
    return layers.act(layer(x, train=train))


class PooledHead(nn.Module):
    """Mean over the map, the factory's normalisation where `normalize` is set, dropout, dense
    (Lin, Chen, Yan 2013, arXiv:1312.4400).
    """  # noqa: D205 - a citation

    num_classes: int
    layers: LayerFactory = LayerFactory()
    dropout_rate: float = 0.0
    normalize: bool = False

    def pooled(self, features: jax.Array) -> jax.Array:
        """The mean over a map [n *space c], with axes of one place [n 1 1 c]."""
        return jnp.expand_dims(global_average_pool(features), tuple(range(1, features.ndim - 1)))

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool) -> Logits:
        """Maps a map [n *space c] to logits [n k]."""
        x = global_average_pool(features)
        if self.normalize:
            x = self.layers.norm(train=train, name="norm")(x)
        x = self.layers.dropout(self.dropout_rate)(x, train=train)
        return self.layers.dense(self.num_classes, name="output")(x)


class ConvHead(nn.Module):
    """Dropout, a 1x1 convolution to one map a class, activation, mean over each map (Iandola et al.
    2016, arXiv:1602.07360). The convolution starts as a dense layer would.
    """  # noqa: D205 - a citation

    num_classes: int
    layers: LayerFactory = LayerFactory()
    dropout_rate: float = 0.0

    def pooled(self, features: Images) -> Images:
        """A map [n h w c] as it is: the convolution stands before the mean."""
        return features

    @nn.compact
    def __call__(self, features: Images, *, train: bool) -> Logits:
        """Maps a map [n h w c] to logits [n k]."""
        x = self.layers.dropout(self.dropout_rate)(features, train=train)
        last = dataclasses.replace(self.layers, kernel_init=self.layers.dense_init)
        x = last.conv(self.num_classes, 1, bias=True, name="output")(x)
        return global_average_pool(self.layers.act(x))
