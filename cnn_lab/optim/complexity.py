"""How complex weights are: their number, size and energy."""

import jax.numpy as jnp

from cnn_lab.core.arrays import Scalar, Tree
from cnn_lab.optim.kernels import kernels_of


def weight_complexity(params: Tree) -> dict[str, Scalar]:
    """Measures the kernels; biases and other vectors are left out.

    Returns:
        `l0` the number of values other than 0, `l1` the sum of absolute values and `l2` the sum of
        squares, in float32.
    """
    kernels = [kernel.astype(jnp.float32) for kernel in kernels_of(params)]
    # Counted as integers: float32 cannot count beyond 2^24.
    nonzero = sum((jnp.count_nonzero(k) for k in kernels), jnp.zeros((), jnp.int32))
    return {
        "l0": nonzero.astype(jnp.float32),
        "l1": sum((jnp.sum(jnp.abs(k)) for k in kernels), jnp.zeros(())),
        "l2": sum((jnp.sum(jnp.square(k)) for k in kernels), jnp.zeros(())),
    }
