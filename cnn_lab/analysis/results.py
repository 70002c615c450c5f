"""What one evaluation of one or several trained networks gave."""

import dataclasses
import math
from typing import Any

from cnn_lab.analysis.evaluation import CONFIDENCE, Evaluation
from cnn_lab.analysis.intervals import Spread, over_runs


@dataclasses.dataclass(frozen=True)
class Member:
    """One network.

    Attributes:
        name: of its run, short.
        workdir: of its run.
        step: its checkpoint.
        num_examples: of the split.
        seconds: that the split took, with what was compiled for it.
        means: the task's metrics.
        evaluation: more of a classifier; None for other tasks and for outputs that are not finite.
        num_unusable: examples whose outputs are not finite.
    """

    name: str
    workdir: str
    step: int
    num_examples: int
    seconds: float
    means: dict[str, float]
    evaluation: Evaluation | None
    num_unusable: int = 0

    @property
    def metrics(self) -> dict[str, float]:
        """All figures by name, those of the task first."""
        return self.means if self.evaluation is None else self.evaluation.metrics


@dataclasses.dataclass(frozen=True)
class Results:
    """All networks of one command, on the same split of the same data.

    Attributes:
        split: train, validation or test.
        data: name of the data set.
        fingerprint: of the data set.
        class_names: label to name.
        tta: test-time augmentation, in words.
        num_resamples: of the bootstrap.
        members: at least one.
        are_runs: whether they are of several runs, and not checkpoints of one.
        no_spread: why they are no sample of one experiment's trainings, empty where they are.
        ensemble: the mean of their probabilities, where that was asked for.
    """

    split: str
    data: str
    fingerprint: str
    class_names: tuple[str, ...]
    tta: str
    num_resamples: int
    members: tuple[Member, ...]
    are_runs: bool
    no_spread: str
    ensemble: Evaluation | None

    def spreads(self) -> dict[str, Spread]:
        """Mean and spread of each figure over independent trainings; empty for fewer than two."""
        if self.no_spread or len(self.members) < 2:
            return {}
        return {
            name: over_runs([m.metrics[name] for m in self.members], CONFIDENCE)
            for name in self.shared()
        }

    def spread_rows(self) -> list[tuple[str, dict[str, float]]]:
        """The spreads as rows of a table: what it is, and the figures by name."""
        spreads, sure = self.spreads(), f"{CONFIDENCE:.0%}"
        rows = {
            "mean": lambda spread: spread.mean,
            "sd": lambda spread: spread.sd,
            f"{sure} from": lambda spread: spread.interval.low,
            f"{sure} to": lambda spread: spread.interval.high,
            "least": lambda spread: spread.least,
            "most": lambda spread: spread.most,
        }
        return [
            (label, {name: get(spread) for name, spread in spreads.items()})
            for label, get in rows.items()
            if spreads
        ]

    def shared(self) -> list[str]:
        """Figures that every member has."""
        first, *others = [member.metrics for member in self.members]
        return [name for name in first if all(name in metrics for metrics in others)]

    def sampled(self) -> list[str]:
        """Figures of which every member has an interval, by resampling the images."""
        found = [m.evaluation.intervals if m.evaluation else {} for m in self.members]
        return [name for name in self.shared() if all(name in intervals for intervals in found)]

    def gains(self) -> dict[str, float]:
        """Figures of the ensemble minus the mean of its members'."""
        if self.ensemble is None:
            return {}
        return {
            name: value - math.fsum(m.metrics[name] for m in self.members) / len(self.members)
            for name, value in self.ensemble.metrics.items()
            if name in self.shared()
        }

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values; null where a figure is not finite."""
        values: dict[str, Any] = {
            "split": self.split,
            "data": {"name": self.data, "fingerprint": self.fingerprint},
            "class_names": list(self.class_names),
            "tta": self.tta,
            "num_resamples": self.num_resamples,
            "members": [self._of_member(member) for member in self.members],
        }
        if spreads := self.spreads():
            values["over_runs"] = {n: dataclasses.asdict(s) for n, s in spreads.items()}
        if self.no_spread:
            values["no_spread"] = self.no_spread
        if self.ensemble is not None:
            values["ensemble"] = self.ensemble.to_json(self.class_names)
            values["ensemble"]["minus_mean_of_members"] = self.gains()
        return _strict(values)

    def _of_member(self, member: Member) -> dict[str, Any]:
        place = {"workdir": member.workdir, "checkpoint": member.step}
        if member.evaluation is None:
            return {**place, "num_examples": member.num_examples, "metrics": member.means}
        return {**place, **member.evaluation.to_json(self.class_names)}


def _strict(value: Any) -> Any:
    """The same with None in place of NaN and infinities, at any depth."""
    if isinstance(value, dict):
        return {name: _strict(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_strict(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
