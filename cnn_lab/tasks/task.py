"""Tasks: all that differs between learning one thing and another, behind one protocol.

A file per task registers how it is made; the step, the evaluation and the config know the protocol
and no task by its name.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import flax.struct

from cnn_lab.core.arrays import PerExample, Tree
from cnn_lab.core.registry import Registry


@runtime_checkable
class Task(Protocol):
    """Losses and metrics of a model's outputs for a batch.

    Attributes:
        better: validation metrics, each with the direction that is better.
        has_classes: whether outputs are logits of classes, which have probabilities and confusions.
    """

    better: ClassVar[Mapping[str, Literal["max", "min"]]]
    has_classes: ClassVar[bool]

    def losses(self, outputs: Any, batch: Any) -> PerExample:
        """Per-example losses [n], which the step minimises."""
        ...

    def metrics(self, outputs: Any, batch: Any) -> dict[str, PerExample]:
        """Per-example values [n] by name, `loss` among them."""
        ...


# (loss, its options, class weights or None) -> task
TASKS: Registry[Callable[..., Task]] = Registry("task", "cnn_lab.tasks")


class WithAuxiliary(flax.struct.PyTreeNode):
    """Outputs of the last head and, in training, of heads on earlier maps.

    The leaves are arrays, or their shapes where outputs are only planned.

    Attributes:
        logits: the outputs of the last head, [n k].
        auxiliary: the outputs of each earlier head, [n k] too; empty in evaluation.
        weight: of each auxiliary loss beside the last head's.
    """

    logits: Tree
    auxiliary: tuple[Tree, ...]
    weight: float = flax.struct.field(pytree_node=False)


def last_logits(outputs: Tree) -> Tree:
    """The logits of the last head [n k]."""
    return outputs.logits if isinstance(outputs, WithAuxiliary) else outputs
