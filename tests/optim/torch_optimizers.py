"""The same gradients through our optimizers and PyTorch's, and how far the weights are apart.

    python tests/optim/torch_optimizers.py

prints the largest differences, with gradients of 1e-6 and without.
"""

import importlib
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnn_lab.optim.optimizers import OPTIMIZERS

HERE = importlib.util.find_spec("torch") is not None
NUM_STEPS = 10
RATE = 0.05
# Ours with options, theirs with options. Their definitions are ours, up to what the tests say.
PAIRS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "sgd": ("sgd", {}, "SGD", {}),
    "momentum": ("momentum", {"momentum": 0.9}, "SGD", {"momentum": 0.9}),
    "nesterov": ("momentum", {"nesterov": True}, "SGD", {"momentum": 0.9, "nesterov": True}),
    "adagrad": ("adagrad", {}, "Adagrad", {}),
    "adadelta": ("adadelta", {}, "Adadelta", {}),
    "rmsprop": ("rmsprop", {}, "RMSprop", {"alpha": 0.9}),
    "rmsprop centered": (
        *("rmsprop", {"centered": True}),
        *("RMSprop", {"alpha": 0.9, "centered": True}),
    ),
    "rmsprop momentum": (
        *("rmsprop", {"decay": 0.99, "momentum": 0.9}),
        *("RMSprop", {"momentum": 0.9}),
    ),
    "adam": ("adam", {}, "Adam", {}),
    "adamw": ("adamw", {"weight_decay": 0.1}, "AdamW", {"weight_decay": 0.1}),
    "nadam": ("nadam", {}, "NAdam", {"momentum_decay": 1e6}),
    "nadam decayed": (
        *("nadam", {"weight_decay": 0.1}),
        *(
            "NAdam",
            {"momentum_decay": 1e6, "weight_decay": 0.1, "decoupled_weight_decay": True},
        ),
    ),
}
NADAM_AS_IT_COMES = ("nadam", {}, "NAdam", {})


def import_torch() -> Any:
    """PyTorch, which type checkers need not find."""
    return importlib.import_module("torch")


def gradients(smallest: float) -> list[np.ndarray]:
    """A gradient [5 3] for each step; entries of the last row are about as large as `smallest`."""
    random = np.random.default_rng(0)
    rows = np.array([1.0, 1.0, 1.0, 1.0, smallest])[:, None]
    return [rows * random.normal(size=(5, 3)) for _ in range(NUM_STEPS)]


def our_weights(name: str, options: dict[str, Any], slopes: list[np.ndarray]) -> np.ndarray:
    """A kernel of ones after all steps, in float64; the rate falls from step to step."""
    with jax.enable_x64(True):
        optimizer = OPTIMIZERS[name].make(lambda step: RATE / (1 + step), **options)
        params = jnp.ones((5, 3))
        state = optimizer.init(params)
        for slope in slopes:
            updates, state = optimizer.update(jnp.asarray(slope), state, params)
            params = optax.apply_updates(params, updates)
        return np.asarray(params)


def their_weights(name: str, options: dict[str, Any], slopes: list[np.ndarray]) -> np.ndarray:
    """The same by torch.optim."""
    torch = import_torch()
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # NAdam's product of momenta has this one
    weights = torch.nn.Parameter(torch.ones((5, 3), dtype=torch.float64))
    optimizer = getattr(torch.optim, name)([weights], lr=RATE, **options)
    for step, slope in enumerate(slopes):
        optimizer.param_groups[0]["lr"] = RATE / (1 + step)
        weights.grad = torch.from_numpy(slope)
        optimizer.step()
    torch.set_default_dtype(default)
    return weights.detach().numpy()


def distance(
    pair: tuple[str, dict[str, Any], str, dict[str, Any]], smallest: float = 1e-6
) -> float:
    """Largest absolute difference of a weight after all steps."""
    ours, options, theirs, their_options = pair
    slopes = gradients(smallest)
    found = our_weights(ours, options, slopes) - their_weights(theirs, their_options, slopes)
    return float(np.abs(found).max())


def main() -> None:
    """Prints a line for each pair."""
    for name, pair in {**PAIRS, "nadam, theirs as it comes": NADAM_AS_IT_COMES}.items():
        print(f"{name:<26} {distance(pair):.1e} {distance(pair, smallest=1.0):.1e}")  # noqa: T201


if __name__ == "__main__":
    main()
