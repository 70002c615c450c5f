"""The lines that `cnn-lab evaluate` prints."""

from collections.abc import Mapping

from cnn_lab.analysis.evaluation import ClassifierEvaluation, EvaluationResults, NetworkResult
from cnn_lab.analysis.regression import NumbersEvaluation
from cnn_lab.analysis.scores import CONFIDENCE, Interval
from cnn_lab.core.text import counted

SHORT, WIDE = 9, 16  # width of a column of figures, and of intervals
EMPTY = "  without a mistake to draw, this says nothing"
GAIN = "ensemble - mean"
SCORES = ("mae", "rmse", "bias", "r2")  # of each of several numbers


def evaluation_text(results: EvaluationResults) -> str:
    """The lines of all figures, and how often the test split has been opened by now."""
    single, openings = len(results.networks) == 1, results.num_test_openings
    lines = _of_one(results, results.networks[0]) if single else _table(results)
    if openings:
        noun = "this run" if len(openings) == 1 else "these runs"
        times = "1 time" if sum(openings) == 1 else f"{', '.join(map(str, openings))} times"
        lines.append(f"  the test split of {noun} has now been opened {times}")
    return "\n".join(lines)


def _of_one(results: EvaluationResults, network: NetworkResult) -> list[str]:
    lines = [
        f"{results.split} split, {counted(network.num_examples, 'image')}, checkpoint "
        f"{network.step}{_views(results)}, {network.seconds:.1f} s"
    ]
    lines += [f"  {name:<12} {value:.6f}" for name, value in network.means.items()]
    if "accuracy" in network.means:
        wrong = round(network.num_examples * (1 - network.means["accuracy"]))
        lines.append(f"  {'errors':<12} {wrong} ({wrong / network.num_examples:.2%})")
    if network.num_unusable:
        images = counted(network.num_unusable, "image")
        lines.append(f"  {'not finite':<12} the outputs of {images}; no more can be said")
    if isinstance(network.evaluation, ClassifierEvaluation):
        lines += _of_classifier(network.evaluation, results.num_resamples, network.means)
    elif network.evaluation is not None:
        lines += _of_numbers(network.evaluation, network.means)
    return lines


def _views(results: EvaluationResults) -> str:
    return "" if results.tta == "none" else f", tta {results.tta}"


def _of_classifier(
    evaluation: ClassifierEvaluation, num_resamples: int, shown: dict[str, float]
) -> list[str]:
    """The lines of a classifier beside the means of its task, which are `shown`."""
    lines, metrics, intervals = [], evaluation.metrics, evaluation.intervals
    if "accuracy" in intervals:
        lines.append(
            f"  {'interval':<12} accuracy {_ends(intervals['accuracy'])} ({CONFIDENCE:.0%}, "
            f"{counted(num_resamples, 'resample')} of the images)"
        )
        if not evaluation.num_errors:
            highest = 1 - (1 - CONFIDENCE) ** (1 / evaluation.num_examples)
            lines[-1] += f"; without an error to draw, read: error below {highest:.2%}"
    for name, value in metrics.items():
        if name not in shown and name not in ("ece", "ece_scaled", "log_loss_scaled"):
            lines.append(f"  {name:<12} {value:.6f}")
            if name in intervals:
                remark = EMPTY if intervals[name].is_empty else ""
                lines[-1] += f"     ({_ends(intervals[name])}){remark}"
    scaled, after = evaluation.scaled, f"(no temperature: {evaluation.no_temperature})"
    if scaled is not None:
        how = {
            "validation": "fitted on validation",
            "cross-fitted": "each half judged by the other's",
        }
        after = (
            f"{metrics['ece_scaled']:.4f}, and log loss {metrics['log_loss_scaled']:.4f}, "
            f"at temperature {scaled.temperature:.3f}, {how[scaled.how]}"
        )
    return [*lines, f"  {'ece':<12} {metrics['ece']:.6f}     {after}"]


def _of_numbers(evaluation: NumbersEvaluation, shown: dict[str, float]) -> list[str]:
    """The lines of predicted numbers beside the means of their task, which are `shown`."""
    others = {n: value for n, value in evaluation.metrics.items() if n not in shown}
    lines = [f"  {name:<12} {value:.6f}" for name, value in others.items()]
    for name, interval in evaluation.intervals.items():
        lines.append(f"  {'interval':<12} {name} {_ends(interval)} ({CONFIDENCE:.0%})")
    numbers = evaluation.numbers()
    if len(numbers) > 1:
        width = max(len("number"), *(len(number.name) for number in numbers))
        lines.append(f"  {'number':<{width}}" + "".join(f"  {name:>12}" for name in SCORES))
        for number in numbers:
            cells = "".join(f"  {getattr(number, name):>12.6g}" for name in SCORES)
            lines.append(f"  {number.name:<{width}}{cells}")
    return lines


def _ends(interval: Interval) -> str:
    return f"{interval.low:.4f} to {interval.high:.4f}"


def _table(results: EvaluationResults) -> list[str]:
    """A row a network, then what they have in common."""
    networks, names, ensemble = results.networks, results.shared(), results.ensemble
    noun, heading = ("run", "step") if results.are_runs else ("checkpoint", "")
    rows = [(n.name, str(n.step) if results.are_runs else "", n.metrics) for n in networks]
    spread_rows = results.spread_rows()
    rows += [(label, "", figures) for label, figures in spread_rows]
    if ensemble is not None:
        rows.append(("ensemble", "", ensemble.metrics))
        rows.append((GAIN, "", results.gains()))
    width = max(len(row[0]) for row in rows)
    lines = [
        f"{results.split} split, {counted(networks[0].num_examples, 'image')}, "
        f"{counted(len(networks), noun)}{_views(results)}",
        f"  {noun:<{width}} {heading:>8}" + "".join(_cell(name, name) for name in names),
    ]
    for label, step, values in rows:
        sign = "+" if label == GAIN else ""
        figures = [_cell(n, f"{values[n]:{sign}.6f}" if n in values else "") for n in names]
        lines.append(f"  {label:<{width}} {step:>8}{''.join(figures)}".rstrip())
    if spread_rows:
        lines.append(f"  {CONFIDENCE:.0%}: of the mean, by Student's t over {len(networks)} runs")
    if results.no_spread:
        lines.append(f"  no mean or interval over {noun}s: {results.no_spread}")
    evaluations = {n.name: n.evaluation for n in networks if n.evaluation is not None}
    evaluations |= {} if ensemble is None else {"ensemble": ensemble}
    for name, evaluation in evaluations.items():
        if isinstance(evaluation, ClassifierEvaluation) and evaluation.no_temperature:
            lines.append(f"  no temperature for {name}: {evaluation.no_temperature}")
    if sampled := results.sampled():
        lines += _intervals(evaluations, sampled, results.num_resamples)
    return lines


def _intervals(
    evaluations: Mapping[str, ClassifierEvaluation | NumbersEvaluation],
    names: list[str],
    num_resamples: int,
) -> list[str]:
    """A row an evaluation: how far the choice of the images may matter."""
    width = max(map(len, evaluations))
    resamples = counted(num_resamples, "resample")
    lines = [f"{CONFIDENCE:.0%} intervals of each, by {resamples} of the images"]
    lines.append(f"  {'':<{width}}" + "".join(f"  {name:>{WIDE}}" for name in names))
    for label, evaluation in evaluations.items():
        found = {name: evaluation.intervals[name] for name in names}
        cells = "".join(f"  {_ends(interval):>{WIDE}}" for interval in found.values())
        lines.append(f"  {label:<{width}}{cells}")
        if empty := [name for name, interval in found.items() if interval.is_empty]:
            lines[-1] += f"{EMPTY} of {', '.join(empty)}"
    return lines


def _cell(name: str, text: str) -> str:
    return f"  {text:>{max(SHORT, len(name))}}"
