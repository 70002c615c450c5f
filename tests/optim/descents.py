"""Optimizers at rates that suit small problems, and what descends with them."""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnn_lab.optim.optimizers import OPTIMIZERS
from cnn_lab.optim.schedules import make_schedule

# Rates that lead least squares of small size to rest in some hundred steps.
RATES = {
    "adadelta": 10.0,
    "adagrad": 1.0,
    "adam": 0.1,
    "adamw": 0.1,
    "lamb": 0.03,
    "lars": 3.0,
    "lion": 0.01,
    "momentum": 0.1,
    "muon": 0.1,
    "nadam": 0.1,
    "rmsprop": 0.01,
    "sam": 0.1,
    "schedule_free_adamw": 0.3,
    "schedule_free_sgd": 2.0,
    "sgd": 0.5,
}
DECAYING = [
    name
    for name, optimizer in OPTIMIZERS.items()
    if "weight_decay" in inspect.signature(optimizer.make).parameters
]
SCHEDULE_FREE = [name for name, optimizer in OPTIMIZERS.items() if optimizer.keeps_average]
# The rates of their two kinds of parameters are made more alike here.
OPTIONS: dict[str, dict[str, Any]] = {
    "lars": {"trust_coefficient": 0.03},
    "muon": {"adam_fraction": 0.3},
}


def make(name: str, rate: Any, **options: Any) -> optax.GradientTransformationExtraArgs:
    """An optimizer with a constant rate or a schedule, which may be handed any argument."""
    schedule = rate if callable(rate) else optax.constant_schedule(rate)
    return optax.with_extra_args_support(OPTIMIZERS[name].make(schedule, **options))


def settling(name: str, num_steps: int) -> optax.GradientTransformationExtraArgs:
    """An optimizer without decay that comes to rest within so many steps."""
    schedule = "constant" if name in SCHEDULE_FREE else "cosine"
    rate = make_schedule(schedule, peak=RATES[name], num_steps=num_steps)
    decay = {"weight_decay": 0.0} if name in DECAYING else {}
    return make(name, rate, **decay, **(OPTIONS[name] if name == "muon" else {}))


def gentle(name: str, schedule=lambda _: 1.0, **options) -> optax.GradientTransformationExtraArgs:
    """An optimizer whose step takes a weight of 1 down a little, but not as far as 0.

    Args:
        name: which.
        schedule: step -> share of the rate.
        **options: beside those that this takes.
    """

    def rate(count):
        return schedule(count) * RATES[name] / 3

    return make(name, rate, **OPTIONS.get(name, {}), **options)


def one_step(optimizer: Any, gradient: Any, params: Any, state: Any) -> tuple[Any, Any]:
    """(params, state) after a step along the gradients that a function of the params gives."""
    updates, state = optimizer.update(gradient(params), state, params, grad_fn=gradient)
    return optax.apply_updates(params, updates), state


def descend(optimizer, params, num_steps: int, gradient=lambda params: params) -> list[Any]:
    """Params after each step, by default on half the sum of squares."""
    state, history = optimizer.init(params), []
    for _ in range(num_steps):
        params, state = one_step(optimizer, gradient, params, state)
        history.append(params)
    return history


@functools.cache
def compiled(name: str, dtype: Any = jnp.float32) -> tuple[Any, Any]:
    """(init, step) of a gentle optimizer with decay, one program each for all tests of a module.

    The step takes params, state and a factor of the gradient, which is the params.
    """
    decay = {"weight_decay": 0.5} if name in DECAYING else {}
    optimizer = gentle(name, lambda count: 1 / (1 + count / 10), **decay)

    def step(params, state, factor):
        def gradient(at):
            return jax.tree.map(lambda p: p * jnp.asarray(factor, dtype), at)

        return one_step(optimizer, gradient, params, state)

    return jax.jit(optimizer.init), jax.jit(step)


def descend_compiled(optimizer, params, num_steps: int, gradient) -> tuple[Any, Any]:
    """(params, state) after so many steps, in one program."""

    def body(carry, _):
        return one_step(optimizer, gradient, *carry), None

    start = (params, optimizer.init(params))
    return jax.jit(lambda: jax.lax.scan(body, start, None, length=num_steps)[0])()


def least_squares(singular_values: tuple[float, ...]):
    """(loss, params to start from) of a kernel [4 2] and a bias with their minimum, 0, elsewhere.

    The curvatures of the kernel's four directions are the squares of the singular values; the
    bias's is 1.
    """
    random = np.random.default_rng(0)
    left, _ = np.linalg.qr(random.normal(size=(16, 4)))
    right, _ = np.linalg.qr(random.normal(size=(4, 4)))
    inputs = jnp.asarray(left * np.asarray(singular_values) @ right)
    kernel = jnp.asarray(random.normal(size=(4, 2)))
    bias = jnp.array([1.0, -2.0])

    def loss(params):
        away = inputs @ (params["kernel"] - kernel)
        return 0.5 * (jnp.sum(jnp.square(away)) + jnp.sum(jnp.square(params["bias"] - bias)))

    return loss, {"kernel": jnp.full((4, 2), 0.1), "bias": jnp.zeros((2,))}


def convnet_params(dtype: Any = jnp.float32):
    """Leaves of every kind: kernels of two to five axes, biases, a scale and a scalar."""
    shapes = {
        "backbone": {
            "conv1d": {"kernel": (3, 2, 4)},
            "conv2d": {"kernel": (3, 3, 2, 4), "bias": (4,)},
            "conv3d": {"kernel": (2, 2, 2, 2, 4)},
            "norm": {"scale": (4,)},
            "gain": (),
        },
        "head": {"output": {"kernel": (4, 3)}},
    }
    return jax.tree.map(
        lambda shape: jnp.ones(shape, dtype), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )
