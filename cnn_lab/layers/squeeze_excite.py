"""Channels weighted by what the whole map shows."""

import flax.linen as nn
import jax

from cnn_lab.core.arrays import Images
from cnn_lab.layers.activations import activation
from cnn_lab.layers.convolution import Conv


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from the means of all (Hu, Shen, Sun 2017,
    arXiv:1709.01507).

    Attributes:
        squeezed: width of the bottleneck.
        activation: name of the one in the bottleneck.
        dtype: of the computation.
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
