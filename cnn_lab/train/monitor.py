"""The decisions that follow from a validation metric: best weights, early stop, learning rate."""

import dataclasses
from collections.abc import Mapping

from cnn_lab.optim.assemble import with_rate_scale
from cnn_lab.train.early_stopping import Selection, update
from cnn_lab.train.plateau import Plateau, after
from cnn_lab.train.progress import Progress
from cnn_lab.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class Monitor:
    """Follows one validation metric.

    Attributes:
        selection: which weights are the best, and when to stop early.
        plateau: when the learning rate is lowered; None never does.
    """

    selection: Selection
    plateau: Plateau | None = None

    def update(self, progress: Progress, metrics: Mapping[str, float], epoch: int) -> None:
        """Takes the metrics of an evaluation into account."""
        value = metrics[self.selection.metric]
        progress.selection = update(
            progress.selection, self.selection, value, step=progress.step, epoch=epoch
        )
        if self.plateau is not None:
            progress.plateau = after(
                progress.plateau, self.plateau, value, step=progress.step, epoch=epoch
            )

    @staticmethod
    def lower_rate(state: TrainState, progress: Progress) -> TrainState:
        """The state with the learning rate that the plateau rule has arrived at."""
        # Only an optimizer whose rate is reduced has a place for the scale.
        if progress.plateau.scale == 1:
            return state
        return state.replace(opt_state=with_rate_scale(state.opt_state, progress.plateau.scale))
