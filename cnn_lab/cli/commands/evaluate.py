"""Evaluates trained runs on their validation split, or on the test split, locked elsewhere.

Every opening of the test split is counted in the run's record and shown on its report page.
Several runs are compared, and averaged by --ensemble; where they differ in their seeds alone, mean
and interval over runs are shown. All figures are also written to evaluation_SPLIT.json and, as a
page, evaluation_SPLIT.html.

Examples:
  cnn-lab evaluate --workdir=runs/mnist/lenet5
  cnn-lab evaluate --workdir=runs/mnist/lenet5 --split=test
  cnn-lab evaluate --workdir='runs/digits/seed*' --ensemble
  cnn-lab evaluate --workdir=runs/digits/seed0 --checkpoint=all --ensemble
  cnn-lab evaluate --workdir=runs/photos --tta=flip
"""

import os
import sys
from pathlib import Path

from absl import flags

from cnn_lab.analysis.evaluation import ClassifierEvaluation, EvaluationResults, NetworkResult
from cnn_lab.analysis.scores import CONFIDENCE
from cnn_lab.cli import runtime
from cnn_lab.cli.main import Invocation
from cnn_lab.cli.runtime import log
from cnn_lab.core.errors import ConfigError, WorkdirError, counted
from cnn_lab.runs.comparable import EvaluationOptions, check_number, read_runs
from cnn_lab.runs.select import find_checkpoints, find_workdirs, folder_of_results


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
    _check_arguments(invocation)
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
    from cnn_lab.report.evaluation import write_evaluation
    from cnn_lab.report.run import write_report
    from cnn_lab.runs.evaluate import evaluate_runs

    results = evaluate_runs(runs, checkpoints, options, _log_progress)
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


def _log_progress(line: str) -> None:
    sys.stderr.write(line + "\n")


def _check_arguments(invocation: Invocation) -> None:
    if invocation.arguments:
        found = invocation.arguments[0]
        hint = f" Several runs are written --workdir={found},... or as a pattern."
        raise ConfigError(
            f"evaluate takes flags only; found {found!r}.{hint if Path(found).is_dir() else ''}"
        )
    if not invocation.flags.workdir:
        raise ConfigError("--workdir is missing: give the folder of a trained run.")


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


SHORT, WIDE = 9, 16  # width of a column of figures, and of intervals
EMPTY = "  without a mistake to draw, this says nothing"


def evaluation_text(results: EvaluationResults) -> str:
    """The lines of all figures, and how often the test split has been opened by now."""
    single, openings = len(results.networks) == 1, results.num_test_openings
    lines = _of_one(results, results.networks[0]) if single else _table(results)
    if len(openings) == 1:
        times = counted(openings[0], "time")
        lines.append(f"  the test split of this run has now been opened {times}")
    elif openings:
        lines.append(
            "  the test split of these runs has now been opened "
            f"{', '.join(str(times) for times in openings)} times"
        )
    return "\n".join(lines)


def _of_one(results: EvaluationResults, network: NetworkResult) -> list[str]:
    views = "" if results.tta == "none" else f", tta {results.tta}"
    lines = [
        f"{results.split} split, {counted(network.num_examples, 'image')}, checkpoint "
        f"{network.step}{views}, {network.seconds:.1f} s"
    ]
    lines += [f"  {name:<12} {value:.6f}" for name, value in network.means.items()]
    if "accuracy" in network.means:
        wrong = round(network.num_examples * (1 - network.means["accuracy"]))
        lines.append(f"  {'errors':<12} {wrong} ({wrong / network.num_examples:.2%})")
    if network.num_unusable:
        images = counted(network.num_unusable, "image")
        lines.append(f"  {'not finite':<12} the outputs of {images}; no more can be said")
    if network.evaluation is None:
        return lines
    return lines + _more(network.evaluation, results.num_resamples, network.means)


def _more(
    evaluation: ClassifierEvaluation, num_resamples: int, shown: dict[str, float]
) -> list[str]:
    """The lines of a classifier beside the means of its task."""
    lines = []
    if "accuracy" in evaluation.intervals:
        low, high = evaluation.intervals["accuracy"].low, evaluation.intervals["accuracy"].high
        lines.append(
            f"  {'interval':<12} accuracy {low:.4f} to {high:.4f} ({CONFIDENCE:.0%}, "
            f"{counted(num_resamples, 'resample')} of the images)"
        )
        if not evaluation.num_errors:
            highest = 1 - (1 - CONFIDENCE) ** (1 / evaluation.num_examples)
            lines[-1] += f"; without an error to draw, read: error below {highest:.2%}"
    for name, value in evaluation.metrics.items():
        if name not in shown and name not in ("ece", "ece_scaled", "log_loss_scaled"):
            lines.append(f"  {name:<12} {value:.6f}")
            if name in evaluation.intervals:
                interval = evaluation.intervals[name]
                lines[-1] += f"     ({interval.low:.4f} to {interval.high:.4f})"
                lines[-1] += EMPTY if interval.is_empty else ""
    lines.append(f"  {'ece':<12} {evaluation.metrics['ece']:.6f}{_scaled(evaluation)}")
    return lines


def _scaled(evaluation: ClassifierEvaluation) -> str:
    """Calibration error and log loss after temperature scaling, in words."""
    if evaluation.scaled is None:
        return f"     (no temperature: {evaluation.no_temperature})"
    temperature = evaluation.scaled.temperature
    ece, log_loss = evaluation.metrics["ece_scaled"], evaluation.metrics["log_loss_scaled"]
    after = f"{ece:.4f}, and log loss {log_loss:.4f},"
    how = {
        "validation": f"at temperature {temperature:.3f}, fitted on validation",
        "cross-fitted": f"at temperature {temperature:.3f}, each half judged by the other's",
    }
    return f"     {after} {how[evaluation.scaled.how]}"


def _table(results: EvaluationResults) -> list[str]:
    """A row a network, then what they have in common."""
    first, names = results.networks[0], results.shared()
    what = "run" if results.are_runs else "checkpoint"
    views = "" if results.tta == "none" else f", tta {results.tta}"
    head = (
        f"{results.split} split, {counted(first.num_examples, 'image')}, "
        f"{counted(len(results.networks), what)}{views}"
    )
    step_of = (lambda network: str(network.step)) if results.are_runs else lambda _: ""
    rows = [(network.name, step_of(network), network.metrics) for network in results.networks]
    spread_rows = results.spread_rows()
    rows += [(label, "", figures) for label, figures in spread_rows]
    if results.ensemble is not None:
        rows.append(("ensemble", "", results.ensemble.metrics))
        rows.append(("ensemble - mean", "", results.gains()))
    width = max(len(row[0]) for row in rows)
    step = "step" if results.are_runs else ""
    lines = [head, f"  {what:<{width}} {step:>8}" + "".join(_cell(n, n) for n in names)]
    for label, step, values in rows:
        figures = [
            _cell(n, f"{values[n]:+.6f}" if label.startswith("ensemble -") else f"{values[n]:.6f}")
            if n in values
            else _cell(n, "")
            for n in names
        ]
        lines.append(f"  {label:<{width}} {step:>8}{''.join(figures)}".rstrip())
    if spread_rows:
        num_runs = len(results.networks)
        lines.append(f"  {CONFIDENCE:.0%}: of the mean, by Student's t over {num_runs} runs")
    if results.no_spread:
        lines.append(f"  no mean or interval over {what}s: {results.no_spread}")
    for name, why in _without_temperature(results).items():
        lines.append(f"  no temperature for {name}: {why}")
    return lines + _intervals(results)


def _intervals(results: EvaluationResults) -> list[str]:
    """A row a network, and one of the ensemble: how far the choice of the images may matter."""
    names = results.sampled()
    if not names:
        return []
    rows = [(n.name, n.evaluation.intervals) for n in results.networks if n.evaluation is not None]
    if results.ensemble is not None:
        rows.append(("ensemble", results.ensemble.intervals))
    width = max(len(label) for label, _ in rows)
    resamples = counted(results.num_resamples, "resample")
    lines = [f"{CONFIDENCE:.0%} intervals of each, by {resamples} of the images"]
    lines.append(f"  {'':<{width}}" + "".join(f"  {name:>{WIDE}}" for name in names))
    for label, intervals in rows:
        ends = [f"{intervals[name].low:.4f} to {intervals[name].high:.4f}" for name in names]
        lines.append(f"  {label:<{width}}" + "".join(f"  {text:>{WIDE}}" for text in ends))
        if empty := [name for name in names if intervals[name].is_empty]:
            lines[-1] += f"{EMPTY} of {', '.join(empty)}"
    return lines


def _without_temperature(results: EvaluationResults) -> dict[str, str]:
    """The networks that have no temperature, and why not."""
    evaluations = {network.name: network.evaluation for network in results.networks}
    evaluations |= {} if results.ensemble is None else {"the ensemble": results.ensemble}
    return {name: e.no_temperature for name, e in evaluations.items() if e and e.no_temperature}


def _cell(name: str, text: str) -> str:
    return f"  {text:>{max(SHORT, len(name))}}"
