"""Layers across channels: maxout, and gates computed from the whole map."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn_lab.core.arrays import Images
from cnn_lab.core.errors import ConfigError
from cnn_lab.layers.convolution import Conv
from cnn_lab.layers.factory import LayerFactory, Padding, activation
from cnn_lab.layers.scopes import as_layer
from cnn_lab.layers.windows import Size


@as_layer
def maxout(x: Float[Array, "... c"], pieces: int) -> Float[Array, "... d"]:
    """Maximum over groups of `pieces` neighbouring channels (Goodfellow et al. 2013,
    arXiv:1302.4389).

    Maps [... c] to [... c / pieces]. The gradient goes to the maximum, the first one on ties.
    Pieces that do not divide the channels are a `ConfigError`.
    """  # noqa: D205 - a citation
    if pieces < 1 or x.shape[-1] % pieces:
        allowed = f"a number that divides the {x.shape[-1]} channels of a maxout's input"
        raise ConfigError(where="pieces", found=pieces, allowed=allowed)
    parts = x.reshape(*x.shape[:-1], -1, pieces)
    largest = parts[..., 0]
    for piece in range(1, pieces):
        other = parts[..., piece]
        largest = jnp.where((other > largest) | jnp.isnan(other), other, largest)
    return largest


class Maxout(nn.Module):
    """A dense layer or a convolution with `pieces` outputs a feature, of which the largest counts
    (Goodfellow et al. 2013, arXiv:1302.4389).

    Attributes:
        pieces: linear functions per feature; two make any convex function of two slopes.
        kernel_size: as `LayerFactory.conv` takes it, like strides and padding; None makes a dense
            layer.
        layers: initialisers and dtype; its activation is not used.
    """  # noqa: D205 - a citation

    features: int
    pieces: int = 2
    kernel_size: Size | None = None
    strides: Size = 1
    padding: Padding = None
    layers: LayerFactory = LayerFactory()

    @nn.compact
    def __call__(self, x: Float[Array, "n *space c"]) -> Float[Array, "n *smaller f"]:
        """Maps [n *space c] to [n *smaller features]."""
        width = self.features * self.pieces
        if self.kernel_size is None:
            return maxout(self.layers.dense(width, name="pieces_dense")(x), self.pieces)
        conv = self.layers.conv(
            width,
            self.kernel_size,
            self.strides,
            self.padding,
            bias=True,
            axes=x.ndim - 2,
            name="pieces_conv",
        )
        return maxout(conv(x), self.pieces)


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from the means of all (Hu, Shen, Sun 2017,
    arXiv:1709.01507).

    Attributes:
        squeezed: width of the bottleneck, where the activation of that name stands.
    """  # noqa: D205 - a citation

    squeezed: int
    activation: str = "relu"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: Images) -> Images:
        """Maps [n h w c] to [n h w c]."""
        gate = images.mean((1, 2), keepdims=True)
        gate = Conv(self.squeezed, (1, 1), dtype=self.dtype, name="reduce")(gate)
        gate = activation(self.activation)(gate)
        gate = Conv(images.shape[-1], (1, 1), dtype=self.dtype, name="expand")(gate)
        return images * jax.nn.sigmoid(gate)
