"""Classification: one label per image."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from cnn_lab.core.arrays import Logits, PerExample, Tree
from cnn_lab.tasks.losses import Loss, make_loss
from cnn_lab.tasks.metrics import accuracy
from cnn_lab.tasks.task import TASKS, WithAuxiliary, last_logits


@dataclasses.dataclass(frozen=True)
class Classification:
    """The task of naming one class per image.

    The loss of auxiliary heads is added to that of the last one; metrics see the last one only.
    """

    loss_function: Loss
    better: ClassVar[Mapping[str, Literal["max", "min"]]] = {"loss": "min", "accuracy": "max"}
    has_classes: ClassVar[bool] = True

    def losses(self, outputs: Logits | WithAuxiliary, batch: Mapping[str, Tree]) -> PerExample:
        """Per-example losses [n] of a batch with `label`."""
        losses = self.loss_function(last_logits(outputs), batch["label"])
        if isinstance(outputs, WithAuxiliary):
            for logits in outputs.auxiliary:
                losses = losses + outputs.weight * self.loss_function(logits, batch["label"])
        return losses

    def metrics(
        self, outputs: Logits | WithAuxiliary, batch: Mapping[str, Tree]
    ) -> dict[str, PerExample]:
        """Per-example values [n] by name, the loss among them."""
        return {
            "loss": self.losses(outputs, batch),
            "accuracy": accuracy(last_logits(outputs), batch["label"]),
        }


@TASKS.register()
def classification(
    loss: str,
    loss_options: Mapping[str, Any] | None = None,
    class_weights: Sequence[float] | None = None,
) -> Classification:
    """One class an image, by the loss of that name (`losses.make_loss`)."""
    return Classification(make_loss(loss, loss_options or {}, class_weights))
