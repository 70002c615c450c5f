"""XOR, out of a perceptron's reach and within that of one hidden layer (Minsky & Papert 1969,
"Perceptrons"; Rumelhart, Hinton & Williams 1986, Nature 323).
"""  # noqa: D205 - a citation

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from cnn_lab.analysis.verdict import Record
from cnn_lab.core.arrays import Scalar
from cnn_lab.models.simple import mlp, perceptron
from cnn_lab.tasks.classification import Classification, classification
from cnn_lab.training.state import make_init
from cnn_lab.training.step import make_train_step

INPUTS = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).reshape(4, 1, 2, 1)
LABELS = {"xor": (0, 1, 1, 0), "and": (0, 0, 0, 1), "or": (0, 1, 1, 1)}


def xor(num_seeds: int = 20, num_steps: int = 1000, hidden: int = 4) -> list[Record]:
    """Trains both nets on all four inputs at once, from several seeds at once.

    Returns:
        By net and function: accuracy on the four inputs, where equal outputs are a guess that is
        right half the time; the highest of all initialisations; and the share of initialisations
        that learn the function, with every input right and none guessed.
    """
    nets: dict[str, tuple[nn.Module, Classification, float]] = {
        "perceptron": (perceptron(2), classification("squared_error"), 0.1),
        "multi-layer perceptron": (
            mlp(2, hidden=(hidden,), activation="tanh"),
            classification("cross_entropy"),
            2.0,
        ),
    }
    records = []
    for series, (model, task, rate) in nets.items():
        train = functools.partial(_train, model, task, rate, num_steps)
        over_seeds = jax.vmap(train, in_axes=(None, 0))
        over_both = jax.jit(jax.vmap(over_seeds, in_axes=(0, None)))  # one program a net
        keys = jax.random.split(jax.random.key(0), num_seeds)
        found = over_both(jnp.array(list(LABELS.values())), keys).tolist()
        for name, accuracies in zip(LABELS, found, strict=True):
            records += [Record(series, name, s, "accuracy", a) for s, a in enumerate(accuracies)]
            learned = sum(accuracy == 1 for accuracy in accuracies) / num_seeds
            records += [
                Record(series, name, 0, "highest accuracy", max(accuracies), exact=True),
                Record(series, name, 0, "share that learn it", learned, exact=True),
            ]
    return records


def _train(
    model: nn.Module,
    task: Classification,
    rate: float,
    num_steps: int,
    labels: jax.Array,
    key: jax.Array,
) -> Scalar:
    optimizer = optax.sgd(rate)
    step = make_train_step(model, task, optimizer)
    batch: dict[str, Any] = {"image": INPUTS, "label": labels, "weight": jnp.ones(4)}
    state = make_init(model, optimizer, (1, 2, 1))(key)
    state = jax.lax.fori_loop(0, num_steps, lambda _, state: step(state, batch)[0], state)
    outputs: Any = model.apply({"params": state.params}, INPUTS, train=False)
    return guessed_accuracy(outputs, labels)


def guessed_accuracy(outputs: Float[Array, "n k"], labels: Int[Array, " n"]) -> Scalar:
    """Share that is right to be expected if equal outputs, as of threshold units, are a guess."""
    best = outputs == outputs.max(axis=-1, keepdims=True)
    right = jnp.take_along_axis(best, labels[:, None], axis=-1)[:, 0]
    return jnp.mean(right / best.sum(axis=-1))
