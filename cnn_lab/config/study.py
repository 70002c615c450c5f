"""A study: trainings or computations, over seeds, and claims that the numbers are held against."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from cnn_lab.config.experiment import ExperimentConfig

Place = tuple[str, float | str | None]  # (series, x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """One point of a study, trained once a seed.

    Attributes:
        series: line of the picture that it belongs to, such as an optimizer.
        x: place on the line, such as a depth; None where a series is one point.
        config: the experiment; its seed and its split_seed are the first ones.
        source: place of an earlier variant, whose training of the same seed is the source of this
            one's weights (`config.transfer.source`).
    """

    series: str
    x: float | str | None = None
    config: ExperimentConfig
    source: Place | None = None

    @property
    def name(self) -> str:
        """Series and place, in words."""
        if self.x is None:
            return self.series
        place = f"{self.x:g}" if isinstance(self.x, int | float) else self.x
        return f"{self.series} {place}".strip()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Computation:
    """An entry of `cnn_lab.study.computations.COMPUTATIONS`, with options of its function."""

    name: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """The claim that a measure of one point is larger than that of another, seed by seed.

    Attributes:
        by: bound that the difference exceeds; a negative one claims that the first is worse by less
            than so much.
    """

    text: str
    measure: str
    larger: Place
    smaller: Place
    by: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
    """The claim that the mean of a measure is at least `low` and at most `high`."""

    text: str
    measure: str
    place: Place
    low: float = float("-inf")
    high: float = float("inf")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture of a study.

    Attributes:
        x: label of the horizontal axis of lines.
        kind: `lines` by x, or `points`, a row for each point of the study.
        series: those that are drawn; None draws all.
    """

    measure: str
    x: str = ""
    kind: Literal["lines", "points"] = "lines"
    log_x: bool = False
    log_y: bool = False
    title: str = ""
    series: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """The study that `get_study()` of a file in experiments/studies returns.

    Attributes:
        question: the question that it answers, in a sentence or two.
        measures: names in `cnn_lab.study.measures.MEASURES`, taken of every training.
        over_seeds: names in `cnn_lab.study.measures.OVER_SEEDS`, taken of the seeds that share
            their images together.
        num_seeds: trainings of each variant, a multiple of `seeds_per_split`.
        seeds_per_split: seeds in a row whose trainings share one choice of training and validation
            images; one value of `over_seeds` comes from each such group.
        claims: expectations; the page has the verdict of the numbers on each.
    """

    title: str
    question: str
    variants: tuple[Variant, ...] = ()
    computations: tuple[Computation, ...] = ()
    measures: tuple[str, ...] = ("validation accuracy",)
    over_seeds: tuple[str, ...] = ()
    num_seeds: int = 3
    seeds_per_split: int = 1
    panels: tuple[Panel, ...] = ()
    claims: tuple[Comparison | Bounds, ...] = ()
