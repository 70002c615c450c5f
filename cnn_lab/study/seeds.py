"""The same experiment from several seeds, as `train --seeds=N`: mean and spread of its metrics."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnn_lab.analysis.scores import over_runs
from cnn_lab.config import ExperimentConfig
from cnn_lab.config.node import freeze, from_dict, to_dict
from cnn_lab.core.errors import DivergedError, WorkdirError
from cnn_lab.core.files import finite_or_none, write_bytes, write_text
from cnn_lab.core.text import counted
from cnn_lab.experiment.components import make_components
from cnn_lab.experiment.initialization import complete_config
from cnn_lab.report.curves import seeds_chart
from cnn_lab.report.run import write_report
from cnn_lab.runs.diverging import DIVERGED, has_diverged, train_or_note
from cnn_lab.runs.train import Result
from cnn_lab.workdir.metric_writers import METRICS_FILE, read_rows
from cnn_lab.workdir.run_dir import CONFIG_FILE, check_config

SUMMARY, PICTURE = "seeds.json", "seeds.png"


def train_seeds(
    config: ExperimentConfig, folder: Path, num_seeds: int, log: Callable[[str], None]
) -> Result | None:
    """Trains from seed `config.seed` on, a run a seed in `folder`/seedS, and compares them.

    The folder gets the runs, a table and a picture; `num_seeds` is at least 2.

    Returns:
        How the run stands that was interrupted, None when all have ended.

    Raises:
        WorkdirError: a folder that holds something else; nothing was trained.
        DivergedError: some seeds diverged; all others have been trained and compared.
    """
    if (folder / CONFIG_FILE).exists():
        raise WorkdirError(
            f"{folder} is the folder of one run; give another --workdir for those of {num_seeds} "
            "seeds.",
            where="--workdir",
            found=str(folder),
        )
    config = complete_config(config)
    runs: dict[int, Path] = {}
    configs: dict[int, ExperimentConfig] = {}
    for seed in range(config.seed, config.seed + num_seeds):
        one = from_dict(ExperimentConfig, to_dict(config))
        one.seed = seed
        runs[seed], configs[seed] = folder / f"seed{seed}", freeze(one)
        check_config(runs[seed], one)
    for number, (seed, workdir) in enumerate(runs.items(), start=1):
        log(f"Seed {seed}, {number} of {num_seeds}, in {workdir}")
        result = train_or_note(configs[seed], workdir, log)
        if result is not None and result.status == "interrupted":
            return result
        write_report(workdir)
    diverged = [seed for seed, workdir in runs.items() if has_diverged(workdir)]
    ended = {seed: workdir for seed, workdir in runs.items() if seed not in diverged}
    if len(ended) > 1:
        _compare(config, folder, ended, diverged, log)
    if diverged:
        which = ", ".join(map(str, diverged))
        rest = "the figures are of the others" if len(ended) > 1 else "too few are left to compare"
        raise DivergedError(
            f"{len(diverged)} of {counted(num_seeds, 'seed')} diverged ({which}), and {rest}; "
            f"{DIVERGED} in the folder of each says where: lower config.optim.learning_rate.",
            where="config.optim.learning_rate",
            found=config.optim.learning_rate,
        )
    return None


def _compare(
    config: ExperimentConfig,
    folder: Path,
    runs: dict[int, Path],
    diverged: list[int],
    log: Callable[[str], None],
) -> None:
    """Prints, draws and stores the validation metrics of all runs that ended."""
    rows = {seed: read_rows(workdir / METRICS_FILE) for seed, workdir in runs.items()}
    validation = [[r for r in run if r["split"] == "validation"] for run in rows.values()]
    summary: dict[str, Any] = {"seeds": list(runs), "diverged": diverged}
    if all(validation):
        selection = make_components(config).selection
        metric, choose = selection.metric, {"min": min, "max": max}[selection.mode]
        last = {name: [run[-1][name] for run in validation] for name in ("loss", metric)}
        best = [choose(_finite(run, metric)) for run in validation]
        log(f"Validation over {len(runs)} seeds, mean +- standard deviation (95 % interval):")
        shown = {f"last {name}": values for name, values in last.items()}
        for name, values in {**shown, f"best {metric}": best}.items():
            spread = over_runs(values)
            low, high = spread.interval.low, spread.interval.high
            log(
                f"  {name:<16} {spread.mean:.4f} +- {spread.sd:.4f} ({low:.4f} to {high:.4f}), "
                f"from {spread.min:.4f} to {spread.max:.4f}"
            )
            summary[name] = {"runs": values, **dataclasses.asdict(spread)}
    write_bytes(folder / PICTURE, seeds_chart(rows))
    write_text(folder / SUMMARY, json.dumps(finite_or_none(summary), indent=2))
    log(f"  figures          {folder / SUMMARY}")
    log(f"  picture          {folder / PICTURE}")


def _finite(rows: list[dict[str, Any]], name: str) -> list[float]:
    return [row[name] for row in rows if row[name] is not None] or [float("nan")]
