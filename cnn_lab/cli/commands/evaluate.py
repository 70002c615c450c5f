"""Evaluates trained runs on their validation split, or on the test split.

No training reads the test split; every opening is counted in the run's record and shown on its
report page. Several runs are compared, and averaged by --ensemble; where they differ in their seeds
alone, mean and interval over runs are shown. All figures are also written to evaluation_SPLIT.json
and, as a page, evaluation_SPLIT.html; those of several checkpoints of a run to
evaluation_SPLIT_checkpoints.json and .html.

Examples:
  cnn-lab evaluate --workdir=runs/mnist/lenet5
  cnn-lab evaluate --workdir=runs/mnist/lenet5 --split=test
  cnn-lab evaluate --workdir='runs/digits/seed*' --ensemble
  cnn-lab evaluate --workdir=runs/digits/seed0 --checkpoint=all --ensemble
  cnn-lab evaluate --workdir=runs/photos --tta=flip
"""

import functools
import os
import sys
from pathlib import Path

from cnn_lab.cli import runtime
from cnn_lab.cli.flags import CHECKPOINTS, WORKDIRS, Flag, Invocation
from cnn_lab.cli.runtime import log
from cnn_lab.core.errors import WorkdirError
from cnn_lab.runs.comparable import EvaluationOptions, check_number, read_runs
from cnn_lab.runs.select import find_checkpoints, find_workdirs, folder_of_results

FLAGS = (
    WORKDIRS,
    Flag("split", "train, validation or test", default="validation"),
    CHECKPOINTS,
    Flag(
        "batch_size",
        "images per step, config.evaluate.batch_size of the run by default; metrics do not depend "
        "on it",
        int,
    ),
    Flag("ensemble", "average the probabilities of the runs or checkpoints", bool),
    Flag(
        "tta",
        "average over views of each image: none, flip (its mirror image too; not for digits), "
        "shifts (five places) or flip+shifts",
        default="none",
    ),
    Flag("tta_pixels", "how far --tta=shifts moves an image", int, 1),
    Flag("bootstrap", "resamples of the images for intervals; 0 for none", int, 2000),
    Flag(
        "out",
        "folder of evaluation_SPLIT.json and .html; the run's, or the one that holds all runs, by "
        "default",
    ),
)


def main(invocation: Invocation) -> int:
    """Prints and writes the metrics of one split."""
    values = invocation.flags
    options = EvaluationOptions(
        split=values.split,
        batch_size=values.batch_size,
        ensemble=values.ensemble,
        tta=values.tta,
        tta_pixels=values.tta_pixels,
        num_resamples=values.bootstrap,
    )
    workdirs, checkpoints = find_workdirs(values.workdir), find_checkpoints(values.checkpoint)
    check_number(len(workdirs), checkpoints, options)
    runs = read_runs(workdirs)
    out = Path(values.out) if values.out else folder_of_results(workdirs)
    _check_out(out)
    runtime.start(None)
    from cnn_lab.cli.evaluation_text import evaluation_text
    from cnn_lab.report.evaluation import write_evaluation
    from cnn_lab.report.run import write_report
    from cnn_lab.runs.evaluate import evaluate_runs

    progress = functools.partial(print, file=sys.stderr)
    results = evaluate_runs(runs, checkpoints, options, progress)
    log(evaluation_text(results))
    if results.num_test_openings:
        reports = [write_report(workdir).page for workdir in workdirs]
        log(f"  report       {', '.join(map(str, reports))}")
    try:
        written = write_evaluation(out, results)
    except OSError as error:
        raise _unwritable(out, error.strerror) from error
    log(f"  figures      {written.beside}\n  page         {written.page}")
    return 0


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
        f"The evaluation cannot be written to {out} ({why}); give another folder as --out.",
        where="--out",
        found=str(out),
    )
