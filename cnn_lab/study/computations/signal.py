"""How the variance of activations and gradients travels through a deep net at its initialisation
(Glorot & Bengio 2010, AISTATS; He et al. 2015, arXiv:1502.01852, section 2.2).
"""  # noqa: D205 - a citation

from typing import Any

import jax
import jax.numpy as jnp

from cnn_lab.models.simple import mlp
from cnn_lab.study.rows import Row
from cnn_lab.tasks import classification


def signal(
    depth: int = 20,
    width: int = 256,
    initializers: tuple[str, ...] = ("normal", "glorot_normal", "he_normal"),
    activations: tuple[str, ...] = ("tanh", "relu"),
    num_seeds: int = 5,
    num_examples: int = 256,
) -> list[Row]:
    """Sends standard normal inputs through nets that were never trained.

    Args:
        depth: hidden layers.
        width: units of each.
        initializers: names of initialisers.
        activations: names of activations.
        num_seeds: initialisations, and inputs.
        num_examples: inputs.

    Returns:
        Mean squares of each layer's activations, and of the gradient of the mean cross-entropy with
        respect to its kernel relative to the last layer's, by layer.
    """
    rows = []
    for kernel_init in initializers:
        for activation in activations:
            series = f"{kernel_init}, {activation}"
            options: dict[str, Any] = {"activation": activation, "kernel_init": kernel_init}
            model = mlp(10, hidden=(width,) * depth, **options)
            measure = jax.jit(lambda key, model=model: _measure(model, key, num_examples))
            for seed in range(num_seeds):
                activity, gradients = measure(jax.random.key(seed))
                for layer in range(depth):
                    rows += [
                        Row(series, layer + 1, seed, "activation", float(activity[layer])),
                        Row(series, layer + 1, seed, "gradient", float(gradients[layer])),
                    ]
    return rows


def _measure(model: Any, key: jax.Array, num_examples: int) -> tuple[jax.Array, jax.Array]:
    """Mean squares of each layer's activations and of its kernel's gradient, [depth] each."""
    init_key, image_key, label_key = jax.random.split(key, 3)
    images = jax.random.normal(image_key, (num_examples, 8, 8, 1))
    labels = jax.random.randint(label_key, (num_examples,), 0, 10)
    params = model.init(init_key, images, train=False)["params"]
    maps = model.apply(
        {"params": params}, images, method=lambda model, x: model.backbone(x, train=False)
    )

    def loss(params: Any) -> jax.Array:
        logits: Any = model.apply({"params": params}, images, train=False)
        return classification("cross_entropy").losses(logits, {"label": labels}).mean()

    gradients = jax.grad(loss)(params)["backbone"]
    layers = [name for name in maps if name != "pixels"]
    activity = jnp.stack([jnp.mean(jnp.square(maps[name])) for name in layers])
    return activity, jnp.stack([jnp.mean(jnp.square(gradients[n]["kernel"])) for n in layers])
