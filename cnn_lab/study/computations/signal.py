"""Variance of activations and gradients through a deep net at its initialisation
(Glorot & Bengio 2010, AISTATS; He et al. 2015, arXiv:1502.01852, section 2.2).
"""  # noqa: D205 - a citation

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cnn_lab.analysis.verdict import Record
from cnn_lab.models.simple import mlp
from cnn_lab.tasks.classification import classification


def signal(
    depth: int = 20,
    width: int = 256,
    initializers: tuple[str, ...] = ("normal", "glorot_normal", "he_normal"),
    activations: tuple[str, ...] = ("tanh", "relu"),
    num_seeds: int = 5,
    num_examples: int = 256,
) -> list[Record]:
    """Sends standard normal inputs through nets that were never trained.

    Returns:
        By layer, the mean square of its activations relative to the first layer's, and that of the
        gradient of an example's cross-entropy with respect to what goes into the activation,
        relative to the last layer's.
    """
    records = []
    for kernel_init in initializers:
        for activation in activations:
            series = f"{kernel_init}, {activation}"
            options: dict[str, Any] = {"activation": activation, "kernel_init": kernel_init}
            model = mlp(10, hidden=(width,) * depth, **options)
            measure = jax.jit(lambda key, model=model: _measure(model, key, num_examples))
            for seed in range(num_seeds):
                found = jax.device_get(measure(jax.random.key(seed)))
                activity, gradients = (np.asarray(sizes, np.float64) for sizes in found)
                for layer in range(depth):
                    activity_ratio = (activity[layer] / activity[0]) ** 2
                    gradient_ratio = (gradients[layer] / gradients[-1]) ** 2
                    records += [
                        Record(series, layer + 1, seed, "activation", activity_ratio),
                        Record(series, layer + 1, seed, "gradient", gradient_ratio),
                    ]
    return records


def _measure(
    model: Any, key: jax.Array, num_examples: int
) -> tuple[Float[Array, " depth"], Float[Array, " depth"]]:
    """Root mean squares of each layer's activations, and of the gradients that reach it."""
    init_key, image_key, label_key = jax.random.split(key, 3)
    images = jax.random.normal(image_key, (num_examples, 8, 8, 1))
    labels = jax.random.randint(label_key, (num_examples,), 0, 10)
    params = model.init(init_key, images, train=False)["params"]
    maps = model.apply(
        {"params": params}, images, method=lambda model, x: model.backbone(x, train=False)
    )

    def loss(params: Any, image: jax.Array, label: jax.Array) -> jax.Array:
        logits: Any = model.apply({"params": params}, image[None], train=False)
        return classification("cross_entropy").losses(logits, {"label": label[None]})[0]

    # An example's gradient for a bias is that for what goes into the activation.
    gradients = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(params, images, labels)["backbone"]
    layers = [name for name in maps if name != "pixels"]
    activity = jnp.stack([root_mean_square(maps[name]) for name in layers])
    return activity, jnp.stack([root_mean_square(gradients[n]["bias"]) for n in layers])


def root_mean_square(values: jax.Array) -> jax.Array:
    """Root mean square of values whose squares may be too small for the number format."""
    largest = jnp.maximum(jnp.abs(values).max(), jnp.finfo(values.dtype).tiny)
    return largest * jnp.sqrt(jnp.mean(jnp.square(values / largest)))
