"""Dropout."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn_lab.core.errors import ConfigError
from cnn_lab.core.random import random_bits


class Dropout(nn.Module):
    """Sets a random share of the values to zero in training (Srivastava et al. 2014, JMLR 15).

    Attributes:
        rate: share of the values that is dropped, in [0, 1).
        scaling: where values are scaled so that the next layer gets as much in training as in
            evaluation: in `training` the ones that are kept are scaled up, and evaluation needs
            nothing; in `evaluation`, as in the paper (section 4), all are scaled down.
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


def share_kept(rate: float) -> float:
    """1 - rate, or a `ConfigError` where a rate is not in [0, 1)."""
    if not 0 <= rate < 1:
        raise ConfigError(f"A rate of dropping must be at least 0 and below 1; found {rate}.")
    return 1 - rate
