"""Losses: one value [n] per example, so that weights, padding and accumulation stay exact.

Logits [n k] are unbounded. The target of a loss of classes is a class per example [n], in [0, k),
or shares of classes [n k] that add up to 1, as of mixed images; that of a loss of numbers has the
shape of the outputs. No loss is below 0.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cnn_lab.config.values import NonNegative, Positive, ProperFraction, check_options
from cnn_lab.core.arrays import Logits, Numbers, PerExample, Targets
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.registry import Registry
from cnn_lab.core.targets import PLURALS, TargetKind

Loss = Callable[[Logits, Targets], PerExample]


@dataclasses.dataclass(frozen=True)
class LossEntry:
    """A loss that a config may name: (logits, targets, **options) -> losses.

    Attributes:
        target: the kind of targets that it is for.
        needs_one_class: whether targets must be classes, not shares, so that no images are mixed.
    """

    function: Callable[..., PerExample]
    target: TargetKind = "class"
    needs_one_class: bool = False


LOSSES = Registry("loss", "cnn_lab.tasks", LossEntry)


@LOSSES.register()
def cross_entropy(
    logits: Logits, targets: Targets, label_smoothing: ProperFraction = 0.0
) -> PerExample:
    """Softmax cross-entropy, in nats: log k for uniform logits.

    Args:
        label_smoothing: share of every target that is spread evenly over all classes, in [0, 1)
            (Szegedy et al. 2015, arXiv:1512.00567, section 7).
    """
    logits = logits.astype(jnp.float32)
    if targets.ndim == 1 and not label_smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    shares = optax.smooth_labels(_shares(targets, logits.shape[-1]), label_smoothing)
    return optax.softmax_cross_entropy(logits, shares)


@LOSSES.register(needs_one_class=True)
def hinge(scores: Logits, targets: Targets, margin: Positive = 1.0) -> PerExample:
    """Multi-class support vector loss: every other class should stay `margin` below the label.

    The sum over the other classes of max(0, score - score of the label + margin) (Weston & Watkins
    1998, "Multi-class support vector machines"): (k - 1) * margin for equal scores.

    Args:
        margin: distance that is enough, positive.

    Raises:
        ConfigError: targets are shares of classes, which have no margin.
    """
    if targets.ndim != 1:
        raise ConfigError(
            "config.task.loss is 'hinge', which needs one class an example, but images are mixed; "
            "set mixup and cutmix in config.data.augment.options to 0 or take cross_entropy.",
            where="config.task.loss",
            found="hinge",
        )
    scores = scores.astype(jnp.float32)
    of_label = jnp.take_along_axis(scores, targets[:, None], axis=-1)
    lacking = jnp.maximum(scores - of_label + margin, 0.0)
    return jnp.sum(lacking, axis=-1) - margin  # the label's own entry is the margin


@LOSSES.register()
def focal(logits: Logits, targets: Targets, gamma: NonNegative = 2.0) -> PerExample:
    """Cross-entropy in which examples that are right already count less (Lin et al. 2017).

    arXiv:1708.02002, section 3. The factor of a class of probability p is (1 - p)^gamma. Differs
    from the paper: softmax over the classes instead of a sigmoid each; the balance alpha is
    `config.task.class_weights`.

    Args:
        gamma: at least 0; 0 is cross-entropy.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    # 1 - p without cancellation; the power's gradient at 0 must not be infinite for gamma < 1.
    others = jnp.maximum(-jnp.expm1(log_p), 1e-12)
    shares = _shares(targets, logits.shape[-1])
    return -jnp.sum(shares * others**gamma * log_p, axis=-1)


@LOSSES.register()
def squared_error(outputs: Logits, targets: Targets) -> PerExample:
    """Half the squared distance to the one-hot label, summed over classes."""
    shares = _shares(targets, outputs.shape[-1])
    return 0.5 * jnp.sum(jnp.square(outputs.astype(jnp.float32) - shares), axis=-1)


@LOSSES.register(target="numbers")
def mse(outputs: Numbers, targets: Numbers) -> PerExample:
    """The squared error, the mean over the numbers; without the half that `squared_error` has."""
    return jnp.mean(optax.squared_error(outputs.astype(jnp.float32), targets), axis=-1)


@LOSSES.register(target="numbers")
def mae(outputs: Numbers, targets: Numbers) -> PerExample:
    """The absolute error, the mean over the numbers; its optimum is the median."""
    return jnp.mean(jnp.abs(outputs.astype(jnp.float32) - targets), axis=-1)


@LOSSES.register(target="numbers")
def huber(outputs: Numbers, targets: Numbers, delta: Positive = 1.0) -> PerExample:
    """Half the squared error up to `delta`, linear beyond it (Huber 1964, Annals of Mathematical
    Statistics 35(1)); the mean over the numbers.

    Args:
        delta: error at which the parabola becomes a line, positive; in deviations of the training
            targets, as the task `regression` learns them.
    """  # noqa: D205 - a citation
    errors = optax.huber_loss(outputs.astype(jnp.float32), targets, delta=delta)
    return jnp.mean(errors, axis=-1)


def check_loss(name: str, options: Mapping[str, Any], target: TargetKind) -> dict[str, Any]:
    """Returns the options of a loss, checked, if there is one of that name for such targets.

    Raises:
        ConfigError: unknown name or option, or a loss of other targets.
    """
    entry = LOSSES.lookup(name, "config.task.loss")
    if entry.target != target:
        raise ConfigError(
            f"The loss {name!r} is for {PLURALS[entry.target]}, not for {PLURALS[target]}",
            where="config.task.loss",
            found=name,
            allowed=[other for other, loss in LOSSES.items() if loss.target == target],
        )
    return check_options(entry.function, options, "config.task.loss_options", "config.task.loss")


def make_loss(
    name: str,
    options: Mapping[str, Any],
    class_weights: Sequence[float] | None = None,
    target: TargetKind = "class",
) -> Loss:
    """The loss of that name, with the options that its function declares.

    Args:
        target: the kind of the targets.
        class_weights: one factor a class, at least 0, of the losses of its examples; an example of
            mixed classes gets the mean of theirs. The mean over a batch is taken over examples, not
            over factors, so that the parts of a batch add up to the whole.

    Raises:
        ConfigError: unknown name or option.
    """
    chosen = check_loss(name, options, target)
    function: Any = LOSSES[name].function

    def plain(outputs: Logits, targets: Targets) -> PerExample:
        losses = function(outputs, targets, **chosen)
        if jnp.shape(losses) != outputs.shape[:1]:
            raise ConfigError(
                f"The loss {name!r} gives an array of shape {jnp.shape(losses)} for a batch of "
                f"{len(outputs)}; a loss must give one value an example, {outputs.shape[:1]}.",
                where="config.task.loss",
                found=jnp.shape(losses),
                allowed=f"{outputs.shape[:1]}",
            )
        return losses

    if class_weights is None:
        return plain

    def weighted(logits: Logits, targets: Targets) -> PerExample:
        table = jnp.asarray(class_weights, jnp.float32)
        factor = table[targets] if targets.ndim == 1 else targets @ table
        return plain(logits, targets) * factor

    return weighted


def _shares(targets: Targets, num_classes: int) -> jax.Array:
    if targets.ndim == 2:
        return targets
    return (targets[:, None] == jnp.arange(num_classes)[None]).astype(jnp.float32)
