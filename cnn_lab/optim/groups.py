"""Groups of parameters, each with its own learning rate and its own beginning."""

import dataclasses
from collections.abc import Callable, Hashable, Mapping

import jax
import optax

from cnn_lab.core import trees
from cnn_lab.core.arrays import Tree

Make = Callable[[optax.Schedule], optax.GradientTransformationExtraArgs]


@dataclasses.dataclass(frozen=True)
class LrMultiplier:
    """How a group is trained.

    Attributes:
        factor: of the learning rate.
        first_step: updates made before its first one.
    """

    factor: float = 1.0
    first_step: int = 0


def grouped(
    make: Make, learning_rate: optax.Schedule, lr_multipliers: Mapping[str, LrMultiplier]
) -> optax.GradientTransformationExtraArgs:
    """An optimizer for each pace, over the parameters that have it.

    Each counts its own updates, so that what begins late is begun like any other: Adam's moments
    are corrected for their youth, and the rate is that of the whole training's step.

    Args:
        make: learning rate -> optimizer.
        learning_rate: step -> rate.
        lr_multipliers: by the path of each parameter that there is.
    """
    names = {
        lr_multiplier: f"{lr_multiplier.factor!r} from {lr_multiplier.first_step}"
        for lr_multiplier in set(lr_multipliers.values())
    }

    def labels(params: Tree) -> Tree:
        flat = {path: names[lr_multipliers[path]] for path in trees.flatten(params)}
        return jax.tree.unflatten(jax.tree.structure(params), list(flat.values()))

    optimizers: dict[Hashable, optax.GradientTransformation] = {
        name: make(_at(learning_rate, lr_multiplier)) for lr_multiplier, name in names.items()
    }
    return optax.with_extra_args_support(optax.partition(optimizers, labels))


def _at(learning_rate: optax.Schedule, lr_multiplier: LrMultiplier) -> optax.Schedule:
    return lambda count: lr_multiplier.factor * learning_rate(count + lr_multiplier.first_step)
