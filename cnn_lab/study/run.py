"""The run of a study: trains what is missing, measures it, and holds the claims against it.

Nothing is computed twice: measures are cached in the folders of their runs, computations in that of
the study.
"""

import dataclasses
import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cnn_lab.analysis.verdict import Record, Verdict, from_json, judge, to_csv, to_json
from cnn_lab.config import Computation, Study
from cnn_lab.core.errors import WorkdirError
from cnn_lab.core.files import write_json, write_text
from cnn_lab.runs.diverging import train_or_note
from cnn_lab.study import computations, measures
from cnn_lab.study.checks import check_claims, check_data, make_trials
from cnn_lab.study.measures import MEASURES, OVER_SEEDS, Trial, Values, place_of

NAME, TABLE, RESULTS = "study.json", "results.csv", "results.json"
MEASURED, COMPUTED = "measured.json", "computed"  # a file of a run, and a folder of the study


@dataclasses.dataclass(frozen=True)
class StudyResult:
    """All numbers of a study, and the verdicts on its claims."""

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
            problem = f"{folder} is the folder of the study {other}; give another one."
            raise WorkdirError(problem, where="--workdir", found=str(folder))
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(note, {"study": name})


def run_study(
    study: Study, folder: Path, num_seeds: int, log: Callable[[str], None]
) -> StudyResult | None:
    """Trains each variant `num_seeds` times, measures what has not been yet, judges the claims.

    The folder gets the runs, `results.json` and `results.csv`.

    Returns:
        None where a training was interrupted, and the same call goes on. A training that diverged
        is a result too: its measures are NaN.
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
        found = []
        for name in study.measures:
            measure = MEASURES[name]
            take = functools.partial(measure.take, trial)
            found += _measured([trial], name, measure.levels(trial.config), take, name)
        seconds += [time.perf_counter() - start] if result is not None and result.ran else []
        left = ""
        if seconds:  # the time that the trials left will take, if they are like those before
            expected = sum(seconds) / len(seconds) * (len(trials) - number)
            minutes = f"{expected / 60:.0f} min" if expected >= 60 else f"{expected:.0f} s"
            left = f", {minutes} left"
        first = f"{found[0].measure} {found[0].value:.4f}" if found else "done"
        first = "diverged" if result is None else first
        log(f"{number}/{len(trials)}  {trial.variant.name}, seed {trial.seed}: {first}{left}")
        records += found
    for variant in study.variants:
        seeds = [trial for trial in trials if trial.variant is variant]
        for first in range(0, len(seeds), study.seeds_per_split):
            group = seeds[first : first + study.seeds_per_split]
            for name in study.over_seeds:
                over, key = OVER_SEEDS[name], f"{name}, {len(group)} seeds"
                take = functools.partial(over.take, group)
                records += _measured(group, name, over.levels(len(group)), take, key)
    verdicts = [judge(claim, records) for claim in study.claims]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / TABLE, to_csv(records))
    results = {
        "claims": [dataclasses.asdict(verdict) for verdict in verdicts],
        "records": to_json(records),
    }
    write_text(folder / RESULTS, json.dumps(results, indent=1))
    return StudyResult(records, verdicts)


def _measured(
    trials: Sequence[Trial],
    name: str,
    levels: Sequence[float | None],
    take: Callable[[], Values],
    key: str,
) -> list[Record]:
    """Records of a measure of one trial, or of several together, cached in the first one's run."""
    first = trials[0]
    values: Values = dict.fromkeys(levels, math.nan)
    if not any(trial.has_diverged for trial in trials):
        values = cached_values(first.workdir, key, take)
    return [
        Record(*place_of(first.variant, level), first.seed, name, float(value))
        for level, value in values.items()
    ]


def cached_values(workdir: Path, key: str, take: Callable[[], Values]) -> Values:
    """The values of a measure of a run, taken where they are not cached.

    Series and place belong to the study and are not cached.
    """
    file = workdir / MEASURED
    cached = _read(file, {"version": measures.VERSION})
    if key not in cached:
        cached[key] = [[level, v if math.isfinite(v) else None] for level, v in take().items()]
        write_text(file, json.dumps(cached))
    return {level: math.nan if value is None else value for level, value in cached[key]}


def cached_computation(
    folder: Path, computation: Computation, log: Callable[[str], None]
) -> list[Record]:
    """The records of a computation, cached in the folder of the study."""
    metadata = {
        "version": computations.VERSION,
        "name": computation.name,
        "options": dict(computation.options),
    }
    text = json.dumps(metadata, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    file = folder / COMPUTED / f"{computation.name}-{digest}.json"
    cached = _read(file, json.loads(text))
    if "records" not in cached:
        log(f"computing {computation.name}")
        records = computations.COMPUTATIONS[computation.name](**computation.options)
        cached["records"] = to_json(records)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(cached))
    return from_json(cached["records"])


def _read(file: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    """Contents of a cache file; `metadata` alone where it is missing, damaged or of others."""
    try:
        cached = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return metadata
    is_same = isinstance(cached, dict) and metadata.items() <= cached.items()
    return cached if is_same else metadata
