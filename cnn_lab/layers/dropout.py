"""Dropout, and its kin: random removal of weights, paths and regions in training.

Each has a `rate` in [0, 1), the share that is dropped. Each scales what stays, so that evaluation
needs nothing (but see `Dropout.scaling`), and draws from the stream `dropout`.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float

from cnn_lab.core.arrays import Images, Key, Maps
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.random import random_bits
from cnn_lab.layers.convolution import NHWC, conv_general_dilated
from cnn_lab.layers.windows import Size, per_axis


class Dropout(nn.Module):
    """Sets a random share of the values to zero in training (Srivastava et al. 2014, JMLR 15).

    Attributes:
        scaling: where values are scaled so that the next layer gets as much in training as in
            evaluation: in `training` those that stay are scaled up, and evaluation needs nothing;
            in `evaluation`, as in the paper (section 4), all are scaled down.
    """

    rate: float
    scaling: Literal["training", "evaluation"] = "training"

    @nn.compact
    def __call__(self, x: Float[Array, "..."], *, train: bool) -> Float[Array, "..."]:
        """Drops values of `x` in training; needs the random stream `dropout` then."""
        share = share_kept(self.rate)
        scaled_here = self.scaling == ("training" if train else "evaluation")
        x = x * share if scaled_here and not train else x
        if not train or share == 1:
            return x
        bits = random_bits(self.make_rng("dropout"), x.shape)
        kept = bits >= jnp.uint32(round(self.rate * 2**32))
        return jnp.where(kept, x / share if scaled_here else x, jnp.zeros((), x.dtype))


class DropPath(nn.Module):
    """Removes the residual branch of whole examples: stochastic depth (Huang et al. 2016,
    arXiv:1603.09382).
    """  # noqa: D205 - a citation

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "n ..."], *, train: bool) -> Float[Array, "n ..."]:
        """Drops branches `x` in training."""
        return _drop(self, x, (x.shape[0], *(1,) * (x.ndim - 1)), train=train)


class DropConnect(nn.Module):
    """A dense layer whose weights are dropped one by one (Wan et al. 2013, ICML).

    Differs from the paper: one mask a batch instead of one an example, and evaluation uses the mean
    weight instead of a Gaussian sample of it.
    """

    features: int
    rate: float
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "*n d"], *, train: bool) -> Float[Array, "*n e"]:
        """Maps [... d] to [... features]."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        kernel = _drop(self, kernel, kernel.shape, train=train)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return x @ kernel + bias.reshape(*(1,) * (x.ndim - 1), -1)


class DropConnectConv(nn.Module):
    """A convolution whose kernel's weights are dropped one by one, as in `DropConnect`."""

    features: int
    rate: float
    kernel_size: Size = 3
    strides: Size = 1
    padding: int | Literal["SAME", "VALID"] = "SAME"
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> Maps:
        """Maps [n h w c] to [n rows columns features]."""
        sides = per_axis(self.kernel_size, 2, "kernel_size")
        kernel = self.param("kernel", self.kernel_init, (*sides, images.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        kernel = _drop(self, kernel, kernel.shape, train=train)
        images, kernel, bias = promote_dtype(images, kernel, bias, dtype=self.dtype)
        padding = self.padding
        if isinstance(padding, int):
            padding = ((padding, padding),) * 2
        strides = per_axis(self.strides, 2, "strides")
        y = conv_general_dilated(images, kernel, strides, padding, dimension_numbers=NHWC)
        return y + bias[None, None, None]


class DropBlock(nn.Module):
    """Removes square regions of each map (Ghiasi, Lin, Le 2018, arXiv:1810.12890).

    Attributes:
        rate: share of the values that is dropped, in expectation and leaving overlaps out.
        block_size: side of a region, in pixels.
    """

    rate: float
    block_size: int = 7

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n h w c"]:
        """Drops regions of `x` in training and scales each channel by what stayed of the batch."""
        if not train or share_kept(self.rate) == 1:
            return x
        height, width = x.shape[1:3]
        size = self.block_size
        if size > min(height, width):
            allowed = f"at most {min(height, width)} for a drop-block in a map of {height}x{width}"
            raise ConfigError(where="block_size", found=size, allowed=allowed)
        # Centres lie where whole blocks fit; the density makes up for the rest (equation 1).
        rows, columns = height - size + 1, width - size + 1
        density = self.rate / size**2 * (height * width) / (rows * columns)
        shape = (x.shape[0], rows, columns, x.shape[3])
        centres = (~keep(self.make_rng("dropout"), shape, 1 - density)).astype(jnp.float32)
        pads = ((0, 0), (size - 1, size - 1), (size - 1, size - 1), (0, 0))
        hit = jax.lax.reduce_window(
            centres, -jnp.inf, jax.lax.max, (1, size, size, 1), (1, 1, 1, 1), pads
        )
        kept = hit <= 0
        share = jnp.maximum(kept.mean((0, 1, 2), dtype=jnp.float32), 1e-6)
        return jnp.where(kept, x / share[None, None, None].astype(x.dtype), jnp.zeros((), x.dtype))


def keep(key: Key, shape: tuple[int, ...], share: float) -> jax.Array:
    """A random mask, True for that share of the values."""
    return random_bits(key, shape) < jnp.uint32(min(round(share * 2**32), 2**32 - 1))


def _drop(
    module: DropPath | DropConnect | DropConnectConv,
    x: jax.Array,
    shape: tuple[int, ...],
    *,
    train: bool,
) -> jax.Array:
    """`x` with entries of a random mask of that shape set to zero in training."""
    share = share_kept(module.rate)
    if not train or share == 1:
        return x
    kept = keep(module.make_rng("dropout"), shape, share)
    return jnp.where(kept, x / share, jnp.zeros((), x.dtype))


def share_kept(rate: float) -> float:
    """1 - rate, or a `ConfigError` where a rate is not in [0, 1)."""
    if not 0 <= rate < 1:
        where = "A rate of dropping"
        raise ConfigError(where=where, found=rate, allowed="at least 0 and below 1")
    return 1 - rate
