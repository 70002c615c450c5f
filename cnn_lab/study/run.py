"""The run of a study: trains what is missing, measures it, and holds the claims against it."""

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

from cnn_lab.analysis.verdict import Record, Verdict, judge, to_csv, to_json
from cnn_lab.config import Study
from cnn_lab.core.errors import WorkdirError
from cnn_lab.core.files import write_json, write_text
from cnn_lab.runs.diverging import train_or_note
from cnn_lab.study.cache import cached_computation, cached_values
from cnn_lab.study.checks import check_claims, check_data, levels_of, make_trials
from cnn_lab.study.measures import MEASURES, OVER_SEEDS
from cnn_lab.study.trial import Trial, Values, records_of

NAME, TABLE, RESULTS = "study.json", "results.csv", "results.json"


@dataclasses.dataclass(frozen=True)
class StudyResult:
    """The result of a study.

    Attributes:
        records: all numbers.
        verdicts: on the claims.
    """

    records: list[Record]
    verdicts: list[Verdict]


def claim_folder(folder: Path, name: str) -> None:
    """Writes into a folder whose it is, and refuses that of another study.

    Raises:
        WorkdirError: it is the folder of another study.
    """
    note = folder / NAME
    if note.exists():
        other = json.loads(note.read_text(encoding="utf-8"))["study"]
        if other != name:
            raise WorkdirError(f"{folder} is the folder of the study {other}; give another one.")
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(note, {"study": name})


def run_study(
    study: Study, folder: Path, num_seeds: int, log: Callable[[str], None]
) -> StudyResult | None:
    """Trains and measures what has not been yet, and judges the claims.

    Args:
        study: its variants, computations, measures and claims.
        folder: gets the runs, `results.json` and `results.csv`.
        num_seeds: trainings of each variant.
        log: takes lines for the user.

    Returns:
        The records and verdicts; None where a training was interrupted, and the same call goes on.
        A training that diverged is a result too: its measures are NaN.
    """
    trials = make_trials(study, folder, num_seeds)
    check_data(study, trials, log)
    records: list[Record] = []
    for computation in study.computations:
        records += cached_computation(folder, computation, log)
    check_claims(study, records)
    seconds: list[float] = []  # of each training that was not done before
    for number, trial in enumerate(trials, start=1):
        start = time.perf_counter()
        lost = trial.source is not None and trial.source.has_diverged
        result = None if lost else train_or_note(trial.config, trial.workdir, lambda _: None)
        if result is not None and result.status == "interrupted":
            return None
        found = _measure(study, trial)
        seconds += [time.perf_counter() - start] if result is not None and result.ran else []
        left = f", {_time_left(seconds, len(trials) - number)}" if seconds else ""
        first = f"{found[0].measure} {found[0].value:.4f}" if found else "done"
        first = "diverged" if result is None else first
        log(f"{number}/{len(trials)}  {trial.variant.name}, seed {trial.seed}: {first}{left}")
        records += found
    for variant in study.variants:
        seeds = [trial for trial in trials if trial.variant is variant]
        for first in range(0, len(seeds), study.seeds_per_split):
            records += _measure_group(study, seeds[first : first + study.seeds_per_split])
    verdicts = [judge(claim, records) for claim in study.claims]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / TABLE, to_csv(records))
    results = {
        "claims": [dataclasses.asdict(verdict) for verdict in verdicts],
        "records": to_json(records),
    }
    write_text(folder / RESULTS, json.dumps(results, indent=1))
    return StudyResult(records, verdicts)


def _measure(study: Study, trial: Trial) -> list[Record]:
    """The measures of a trial, taken once and cached in its folder."""
    records = []
    for name in study.measures:
        values: Values = dict.fromkeys(levels_of(name, trial.config), math.nan)
        if not trial.has_diverged:
            take = MEASURES[name].take
            values = cached_values(trial.workdir, name, lambda take=take: take(trial))
        records += records_of(trial, name, values)
    return records


def _measure_group(study: Study, group: list[Trial]) -> list[Record]:
    """The measures of trials that share their images, cached in the folder of the first."""
    records = []
    for name in study.over_seeds:
        over = OVER_SEEDS[name]
        values: Values = dict.fromkeys(over.levels(len(group)), math.nan)
        if not any(trial.has_diverged for trial in group):
            workdir, key = group[0].workdir, f"{name}, {len(group)} seeds"
            values = cached_values(workdir, key, lambda over=over: over.take(group))
        records += records_of(group[0], name, values)
    return records


def _time_left(seconds: list[float], num_trials: int) -> str:
    """The time that the trials left will take, if they are like those before."""
    expected = sum(seconds) / len(seconds) * num_trials
    return f"{expected / 60:.0f} min left" if expected >= 60 else f"{expected:.0f} s left"
