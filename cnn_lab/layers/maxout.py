"""Layers whose activation is learned: the maximum of several linear pieces."""

import flax.linen as nn
from jaxtyping import Array, Float

from cnn_lab.layers.blocks import Padding, Style
from cnn_lab.layers.pooling import maxout
from cnn_lab.layers.windows import Size


class Maxout(nn.Module):
    """A dense layer or a convolution with `pieces` outputs a feature, of which the largest counts
    (Goodfellow et al. 2013, arXiv:1302.4389).

    Attributes:
        features: values or channels of the result.
        pieces: linear functions per feature; two make any convex function of two slopes.
        kernel_size: pixels, or one per axis of space; None makes a dense layer.
        strides: pixels between windows, or one per axis.
        padding: as `Style.conv` takes it.
        style: initialisers and dtype; its activation is not used.
    """  # noqa: D205 - a citation

    features: int
    pieces: int = 2
    kernel_size: Size | None = None
    strides: Size = 1
    padding: Padding = None
    style: Style = Style()

    @nn.compact
    def __call__(self, x: Float[Array, "n *space c"]) -> Float[Array, "n *smaller f"]:
        """Maps [n *space c] to [n *smaller features]."""
        width = self.features * self.pieces
        if self.kernel_size is None:
            return maxout(self.style.dense(width, name="pieces_dense")(x), self.pieces)
        conv = self.style.conv(
            width,
            self.kernel_size,
            self.strides,
            self.padding,
            bias=True,
            axes=x.ndim - 2,
            name="pieces_conv",
        )
        return maxout(conv(x), self.pieces)
