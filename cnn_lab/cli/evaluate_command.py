"""Evaluates trained runs on their validation split, or on the test split, locked elsewhere.

Every opening of the test split is counted in the run's record and shown on its report page.
Several runs are compared, and averaged by --ensemble; where they differ in their seeds alone, mean
and interval over runs are told. What is found is also written to evaluation_SPLIT.json and, as a
page, evaluation_SPLIT.html.

Examples:
  cnn-lab evaluate --workdir=runs/mnist/lenet5
  cnn-lab evaluate --workdir=runs/mnist/lenet5 --split=test
  cnn-lab evaluate --workdir='runs/digits/seed*' --ensemble
  cnn-lab evaluate --workdir=runs/digits/seed0 --checkpoint=all --ensemble
  cnn-lab evaluate --workdir=runs/photos --tta=flip
"""

import os
from pathlib import Path
from typing import Any

from absl import flags

from cnn_lab.cli import runtime
from cnn_lab.cli.main import Invocation
from cnn_lab.cli.output import log
from cnn_lab.core.errors import ConfigError, WorkdirError
from cnn_lab.runs.comparable import read_runs
from cnn_lab.runs.select import find_checkpoints, find_workdirs, folder_of_results, short_names

SPLITS = ("train", "validation", "test")
FEWEST_RESAMPLES = 100  # 2.5 % of fewer are no tail


def define_flags(values: flags.FlagValues) -> None:
    """Declares the flags of this command."""
    flags.DEFINE_string(
        "workdir",
        None,
        "folder of the run; a pattern such as 'runs/seed*', or several folders between commas",
        flag_values=values,
    )
    flags.DEFINE_string("split", "validation", "train, validation or test", flag_values=values)
    flags.DEFINE_string(
        "checkpoint",
        "best",
        "best, latest or a step; of one run also several between commas, or all",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "batch_size",
        None,
        "images per step, config.evaluate.batch_size of the run by default; metrics do not depend "
        "on it",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "ensemble",
        False,
        "average the probabilities of the runs or checkpoints",
        flag_values=values,
    )
    flags.DEFINE_string(
        "tta",
        "none",
        "average over views of each image: none, flip (its mirror image too; not for digits), "
        "shifts (five places) or flip+shifts",
        flag_values=values,
    )
    flags.DEFINE_integer("tta_pixels", 1, "how far --tta=shifts moves an image", flag_values=values)
    flags.DEFINE_integer(
        "bootstrap", 2000, "resamples of the images for intervals; 0 for none", flag_values=values
    )
    flags.DEFINE_string(
        "out",
        None,
        "folder of evaluation_SPLIT.json and .html; the run's, or the one that holds all runs, by "
        "default",
        flag_values=values,
    )


def main(invocation: Invocation) -> int:
    """Prints and writes the metrics of one split."""
    values = invocation.flags
    _check(invocation)
    workdirs, checkpoints = find_workdirs(values.workdir), find_checkpoints(values.checkpoint)
    _check_several(values, workdirs, checkpoints)
    runs = read_runs(short_names(workdirs), workdirs)
    out = Path(values.out) if values.out else folder_of_results(workdirs)
    _check_out(out)
    runtime.start(None)
    from cnn_lab.cli.evaluation_text import evaluation_text
    from cnn_lab.report.evaluation import write_evaluation
    from cnn_lab.report.page import write_report
    from cnn_lab.runs.evaluate import evaluate_all

    results, openings = evaluate_all(values, runs, checkpoints)
    log(evaluation_text(results, openings))
    if openings:
        reports = [write_report(workdir).page for workdir in workdirs]
        log(f"  report       {', '.join(map(str, reports))}")
    try:
        written = write_evaluation(out, results)
    except OSError as error:
        raise _unwritable(out, error.strerror) from error
    log(f"  figures      {written.figures}\n  page         {written.page}")
    return 0


def _check(invocation: Invocation) -> None:
    """Refuses flags that can be seen to be wrong at once."""
    values = invocation.flags
    if invocation.arguments:
        found = invocation.arguments[0]
        hint = f" Several runs are written --workdir={found},... or as a pattern."
        raise ConfigError(
            f"evaluate takes flags only; found {found!r}.{hint if Path(found).is_dir() else ''}"
        )
    if not values.workdir:
        raise ConfigError("--workdir is missing: give the folder of a trained run.")
    if values.split not in SPLITS:
        raise ConfigError(f"--split must be train, validation or test; found {values.split!r}.")
    if values.batch_size is not None and values.batch_size < 1:
        raise ConfigError(f"--batch_size must be at least 1; found {values.batch_size}.")
    if values.bootstrap != 0 and values.bootstrap < FEWEST_RESAMPLES:
        raise ConfigError(
            f"--bootstrap must be 0 or at least {FEWEST_RESAMPLES}; found {values.bootstrap}."
        )


def _check_out(out: Path) -> None:
    """Refuses a folder that cannot be written before anything is evaluated."""
    try:
        place = next(path for path in (out, *out.absolute().parents) if path.exists())
    except OSError as error:  # such as a name that is too long
        raise _unwritable(out, error.strerror) from error
    if not place.is_dir():
        raise _unwritable(out, f"{place} is a file")
    if not os.access(place, os.W_OK | os.X_OK):
        raise _unwritable(out, f"{place} is read-only")


def _unwritable(out: Path, why: str | None) -> WorkdirError:
    return WorkdirError(
        f"The evaluation cannot be written to {out} ({why}); give another folder as --out."
    )


def _check_several(values: Any, workdirs: list[Path], checkpoints: list[str]) -> None:
    several = len(checkpoints) > 1 or checkpoints == ["all"]
    if several and len(workdirs) > 1:
        raise ConfigError(
            f"--checkpoint={values.checkpoint} names several checkpoints and --workdir "
            f"{len(workdirs)} runs; give several of one of them only."
        )
    if values.ensemble and not several and len(workdirs) == 1:
        raise ConfigError(
            "--ensemble needs at least two networks; found one run and one checkpoint: give a "
            "pattern or a list as --workdir, or --checkpoint=all."
        )
