"""When things happen in a run, in steps."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Plan:
    """When things happen, in steps.

    Attributes:
        steps_per_epoch: ceil(examples / batch size).
        num_epochs: passes over the data.
        log_every_steps: steps between training rows.
        evaluate_every_epochs: epochs between evaluations; the last epoch is always evaluated.
        save_every_steps: steps between saves besides the ones after evaluations.
        end_step: updates made when this part of the run ends; None where it is all of it.
        watched_at: updates after which whoever watches the steps is to be told of them.
    """

    steps_per_epoch: int
    num_epochs: int
    log_every_steps: int
    evaluate_every_epochs: int
    save_every_steps: int | None = None
    end_step: int | None = None
    watched_at: tuple[int, ...] = ()

    @property
    def last_step(self) -> int:
        """Updates made when this part of the run ends."""
        return self.total_steps if self.end_step is None else self.end_step

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self.num_epochs

    def evaluates_at(self, step: int) -> bool:
        """Whether the validation split is looked at after `step` steps."""
        every = self.steps_per_epoch * self.evaluate_every_epochs
        return step % every == 0 or step == self.total_steps

    def logs_at(self, step: int) -> bool:
        """Whether a training row is written after `step` steps."""
        return step % self.log_every_steps == 0 or self.evaluates_at(step)

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint is written after `step` steps."""
        every = self.save_every_steps
        return self.evaluates_at(step) or (every is not None and step % every == 0)

    def next_stop(self, step: int, longest: int) -> int:
        """First step after `step`, at most `longest` later, at which something happens."""
        last = min(step + longest, self.last_step)
        stops = (s for s in range(step + 1, last) if self._stops_at(s))
        return next(stops, last)

    def _stops_at(self, step: int) -> bool:
        return self.logs_at(step) or self.saves_at(step) or step in self.watched_at
