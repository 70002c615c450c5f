"""Conducts a study: trains what is missing, measures, and keeps every number at once."""

import dataclasses
import json
import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from cnn_lab.config import ExperimentConfig, Study, Variant
from cnn_lab.core.errors import ConfigError, DivergedError, lookup
from cnn_lab.core.files import write_text
from cnn_lab.core.options import check_options
from cnn_lab.core.typed import freeze, from_dict, to_dict
from cnn_lab.resolve import resolve_names
from cnn_lab.run import run_training
from cnn_lab.study.claims import Judged, check_places, judge
from cnn_lab.study.computations import COMPUTATIONS
from cnn_lab.study.measures import MEASURES, OVER_SEEDS, Finished, name_of
from cnn_lab.study.rows import Row, from_json, to_csv, to_json
from cnn_lab.train.workdir import check_config

RUNS, TABLE, RESULTS = "runs", "results.csv", "results.json"
MEASURED, DIVERGED = "measured.json", "diverged.txt"  # of a run


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a study found.

    Attributes:
        rows: all numbers.
        judged: the claims.
    """

    rows: list[Row]
    judged: list[Judged]


def check_study(study: Study, folder: Path, num_seeds: int) -> list[Finished]:
    """All trainings of a study, none of which has been started by this.

    Raises:
        CnnLabError: a config that cannot work, an unknown measure, a folder of another study.
    """
    for name in study.measures:
        lookup(MEASURES, name, "measure")
    for name in study.over_seeds:
        lookup(OVER_SEEDS, name, "measure over seeds")
    for computation in study.computations:
        function = lookup(COMPUTATIONS, computation.name, "computation")
        check_options(function, computation.options, f"computation {computation.name}")
    places = [(variant.series, variant.x) for variant in study.variants]
    if twice := [place for place in places if places.count(place) > 1]:
        raise ConfigError(f"The study has two variants at {twice[0]}; give each its own place.")
    planned = []
    for variant in study.variants:
        resolve_names(variant.config)
        for seed in range(variant.config.seed, variant.config.seed + num_seeds):
            config = from_dict(ExperimentConfig, to_dict(variant.config))
            config.seed, config.log.tensorboard = seed, False
            workdir = folder / RUNS / _slug(variant) / f"seed{seed}"
            check_config(workdir, config)
            planned.append(Finished(variant, seed, freeze(config), workdir))
    return planned


def conduct(
    study: Study, folder: Path, num_seeds: int, say: Callable[[str], None]
) -> Findings | None:
    """Trains and measures what has not been yet, and judges the claims.

    Args:
        study: what to do.
        folder: gets the runs, `results.json` and `results.csv`.
        num_seeds: trainings of each variant.
        say: takes lines for the user.

    Returns:
        What was found; None where a training was interrupted, and the same call goes on. A training
        that diverged is a result too: its measures are NaN.
    """
    planned = check_study(study, folder, num_seeds)
    rows: list[Row] = []
    for computation in study.computations:
        say(f"computing {computation.name}")
        rows += COMPUTATIONS[computation.name](**computation.options)
    check_places(study, rows)
    seconds: list[float] = []  # of each training that was not done before
    for number, run in enumerate(planned, start=1):
        start = time.perf_counter()
        outcome = _train(run)
        if outcome == "interrupted":
            return None
        found = _measured(study, run)
        seconds += [time.perf_counter() - start] if outcome == "ran" else []
        left = f", {_left(seconds, len(planned) - number)}" if seconds else ""
        first = f"{found[0].measure} {found[0].value:.4f}" if found else "done"
        first = "diverged" if _diverged(run) else first
        say(f"{number}/{len(planned)}  {name_of(run.variant)}, seed {run.seed}: {first}{left}")
        rows += found
    for name in study.over_seeds:
        for variant in study.variants:
            same = [run for run in planned if run.variant is variant and not _diverged(run)]
            rows += OVER_SEEDS[name](same) if same else []
    judged = [judge(claim, rows) for claim in study.claims]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / TABLE, to_csv(rows))
    claims = [dataclasses.asdict(claim) for claim in judged]
    write_text(folder / RESULTS, json.dumps({"claims": claims, "rows": to_json(rows)}, indent=1))
    return Findings(rows, judged)


def _train(run: Finished) -> Literal["ran", "had run", "interrupted"]:
    """Trains what has not been trained; what diverged is noted, and not begun again."""
    if _diverged(run):
        return "had run"
    quiet: list[str] = []
    try:
        result = run_training(run.config, run.workdir, quiet.append)
    except DivergedError as error:
        write_text(run.workdir / DIVERGED, f"{error}\n")
        return "ran"
    if result.status == "interrupted":
        return "interrupted"
    return "ran" if result.ran else "had run"


def _diverged(run: Finished) -> bool:
    return (run.workdir / DIVERGED).exists()


def _measured(study: Study, run: Finished) -> list[Row]:
    """The measures of a run, taken once and kept in its folder."""
    if _diverged(run):
        return [run.row(name, math.nan) for name in study.measures]
    file = run.workdir / MEASURED
    kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    rows = []
    for name in study.measures:
        if name not in kept:
            kept[name] = to_json(MEASURES[name](run))
            write_text(file, json.dumps(kept))
        rows += from_json(kept[name])
    return rows


def _left(seconds: list[float], num_runs: int) -> str:
    """How long the trainings that are left will take, if they are like those before."""
    expected = sum(seconds) / len(seconds) * num_runs
    return f"{expected / 60:.0f} min left" if expected >= 60 else f"{expected:.0f} s left"


def _slug(variant: Variant) -> str:
    return re.sub(r"[^a-zA-Z0-9.]+", "_", name_of(variant)).strip("_").lower()
