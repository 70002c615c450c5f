"""Conducts a study: trains what is missing, measures, and keeps every number at once."""

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

from cnn_lab.analysis.records import Row, to_csv, to_json
from cnn_lab.analysis.verdict import Judged, judge
from cnn_lab.config import Study
from cnn_lab.core.files import write_text
from cnn_lab.runs.diverging import train_or_note
from cnn_lab.study import cache
from cnn_lab.study.finished import Finished, Values, rows_of
from cnn_lab.study.measures import MEASURES, OVER_SEEDS
from cnn_lab.study.plan import check_claims, check_data, check_study, levels_of

TABLE, RESULTS = "results.csv", "results.json"


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a study found.

    Attributes:
        rows: all numbers.
        judged: the claims.
    """

    rows: list[Row]
    judged: list[Judged]


def conduct(
    study: Study, folder: Path, num_seeds: int, log: Callable[[str], None]
) -> Findings | None:
    """Trains and measures what has not been yet, and judges the claims.

    Args:
        study: what to do.
        folder: gets the runs, `results.json` and `results.csv`.
        num_seeds: trainings of each variant.
        log: takes lines for the user.

    Returns:
        What was found; None where a training was interrupted, and the same call goes on. A training
        that diverged is a result too: its measures are NaN.
    """
    planned = check_study(study, folder, num_seeds)
    check_data(study, planned, log)
    rows: list[Row] = []
    for computation in study.computations:
        rows += cache.computed(folder, computation, log)
    check_claims(study, rows)
    seconds: list[float] = []  # of each training that was not done before
    for number, run in enumerate(planned, start=1):
        start = time.perf_counter()
        lost = run.source is not None and run.source.has_diverged
        result = None if lost else train_or_note(run.config, run.workdir, lambda _: None)
        if result is not None and result.status == "interrupted":
            return None
        found = _measured(study, run)
        seconds += [time.perf_counter() - start] if result is not None and result.ran else []
        left = f", {_left(seconds, len(planned) - number)}" if seconds else ""
        first = f"{found[0].measure} {found[0].value:.4f}" if found else "done"
        first = "diverged" if result is None else first
        log(f"{number}/{len(planned)}  {run.variant.name}, seed {run.seed}: {first}{left}")
        rows += found
    for variant in study.variants:
        same = [run for run in planned if run.variant is variant]
        for first in range(0, len(same), study.seeds_per_split):
            rows += _measured_together(study, same[first : first + study.seeds_per_split])
    judged = [judge(claim, rows) for claim in study.claims]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / TABLE, to_csv(rows))
    claims = [dataclasses.asdict(claim) for claim in judged]
    write_text(folder / RESULTS, json.dumps({"claims": claims, "rows": to_json(rows)}, indent=1))
    return Findings(rows, judged)


def _measured(study: Study, run: Finished) -> list[Row]:
    """The measures of a run, taken once and kept in its folder."""
    rows = []
    for name in study.measures:
        values: Values = dict.fromkeys(levels_of(name, run.config), math.nan)
        if not run.has_diverged:
            values = cache.values(run.workdir, name, lambda name=name: MEASURES[name].take(run))
        rows += rows_of(run, name, values)
    return rows


def _measured_together(study: Study, group: list[Finished]) -> list[Row]:
    """What is measured of trainings that share their images, kept in the folder of the first."""
    rows = []
    for name in study.over_seeds:
        over = OVER_SEEDS[name]
        values: Values = dict.fromkeys(over.levels(len(group)), math.nan)
        if not any(run.has_diverged for run in group):
            place, key = group[0].workdir, f"{name}, {len(group)} seeds"
            values = cache.values(place, key, lambda over=over: over.take(group))
        rows += rows_of(group[0], name, values)
    return rows


def _left(seconds: list[float], num_runs: int) -> str:
    """How long the trainings that are left will take, if they are like those before."""
    expected = sum(seconds) / len(seconds) * num_runs
    return f"{expected / 60:.0f} min left" if expected >= 60 else f"{expected:.0f} s left"
