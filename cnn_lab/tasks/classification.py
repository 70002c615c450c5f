"""Tasks: what turns a model's outputs and a batch into per-example losses and metrics."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from cnn_lab.core.arrays import Logits, PerExample, Tree
from cnn_lab.tasks.losses import Loss, make_loss
from cnn_lab.tasks.metrics import accuracy
from cnn_lab.tasks.outputs import WithAuxiliary


@dataclasses.dataclass(frozen=True)
class Classification:
    """One label per image.

    The loss of auxiliary heads is added to that of the last one; metrics see the last one only.

    Attributes:
        loss_function: per-example loss of (logits [n k], targets [n] or [n k]).
        better: validation metrics, each with the direction that is better.
    """

    loss_function: Loss
    better: Mapping[str, Literal["max", "min"]] = dataclasses.field(
        default_factory=lambda: {"loss": "min", "accuracy": "max"}
    )

    def losses(self, outputs: Logits | WithAuxiliary, batch: Mapping[str, Tree]) -> PerExample:
        """Per-example losses [n] of a batch with `label`."""
        if not isinstance(outputs, WithAuxiliary):
            return self.loss_function(outputs, batch["label"])
        losses = self.loss_function(outputs.logits, batch["label"])
        for logits in outputs.auxiliary:
            losses = losses + outputs.weight * self.loss_function(logits, batch["label"])
        return losses

    def metrics(
        self, outputs: Logits | WithAuxiliary, batch: Mapping[str, Tree]
    ) -> dict[str, PerExample]:
        """Per-example values [n] by name, the loss among them."""
        logits = outputs.logits if isinstance(outputs, WithAuxiliary) else outputs
        return {
            "loss": self.losses(outputs, batch),
            "accuracy": accuracy(logits, batch["label"]),
        }


def classification(
    loss: str,
    loss_options: Mapping[str, Any] | None = None,
    class_weights: Sequence[float] | None = None,
) -> Classification:
    """One class an image, by the loss of that name (`losses.make_loss`)."""
    return Classification(make_loss(loss, loss_options or {}, class_weights))


TASKS: dict[str, Callable[..., Classification]] = {"classification": classification}
