"""The lines that `cnn-lab evaluate` prints."""

from cnn_lab.analysis.evaluation import CONFIDENCE, Evaluation
from cnn_lab.analysis.results import Member, Results
from cnn_lab.core.formatting import counted

SHORT, WIDE = 9, 16  # width of a column of figures, and of intervals
EMPTY = "  without a mistake to draw, this says nothing"


def evaluation_text(results: Results, openings: list[int]) -> str:
    """Lines of all results.

    Args:
        results: what was found.
        openings: how often each run's test split has been opened by now; empty for other splits.
    """
    single = len(results.members) == 1
    lines = _of_one(results, results.members[0]) if single else _table(results)
    if len(openings) == 1:
        times = counted(openings[0], "time")
        lines.append(f"  the test split of this run has now been opened {times}")
    elif openings:
        lines.append(
            "  the test split of these runs has now been opened "
            f"{', '.join(str(times) for times in openings)} times"
        )
    return "\n".join(lines)


def _of_one(results: Results, member: Member) -> list[str]:
    views = "" if results.tta == "none" else f", tta {results.tta}"
    lines = [
        f"{results.split} split, {counted(member.num_examples, 'image')}, checkpoint "
        f"{member.step}{views}, {member.seconds:.1f} s"
    ]
    lines += [f"  {name:<12} {value:.6f}" for name, value in member.means.items()]
    if "accuracy" in member.means:
        wrong = round(member.num_examples * (1 - member.means["accuracy"]))
        lines.append(f"  {'errors':<12} {wrong} ({wrong / member.num_examples:.2%})")
    if member.num_unusable:
        images = counted(member.num_unusable, "image")
        lines.append(f"  {'not finite':<12} the outputs of {images}; no more can be said")
    found = member.evaluation
    return lines if found is None else lines + _more(found, results.num_resamples, member.means)


def _more(found: Evaluation, num_resamples: int, said: dict[str, float]) -> list[str]:
    """What a classifier has beside the means of its task."""
    lines = []
    if "accuracy" in found.intervals:
        low, high = found.intervals["accuracy"].low, found.intervals["accuracy"].high
        lines.append(
            f"  {'interval':<12} accuracy {low:.4f} to {high:.4f} ({CONFIDENCE:.0%}, "
            f"{counted(num_resamples, 'resample')} of the images)"
        )
        if not found.num_errors:
            most = 1 - (1 - CONFIDENCE) ** (1 / found.num_examples)
            lines[-1] += f"; without an error to draw, read: error below {most:.2%}"
    for name, value in found.metrics.items():
        if name not in said and name not in ("ece", "ece_scaled", "log_loss_scaled"):
            lines.append(f"  {name:<12} {value:.6f}")
            if name in found.intervals:
                interval = found.intervals[name]
                lines[-1] += f"     ({interval.low:.4f} to {interval.high:.4f})"
                lines[-1] += EMPTY if interval.is_empty else ""
    lines.append(f"  {'ece':<12} {found.metrics['ece']:.6f}{_scaled(found)}")
    return lines


def _scaled(found: Evaluation) -> str:
    """What a temperature makes of calibration error and log loss."""
    if found.calibrated is None:
        return f"     (no temperature: {found.no_temperature})"
    temperature = found.calibrated.temperature
    after = f"{found.metrics['ece_scaled']:.4f}, and log loss {found.calibrated.log_loss:.4f},"
    how = {
        "validation": f"at temperature {temperature:.3f}, fitted on validation",
        "cross-fitted": f"at temperature {temperature:.3f}, each half judged by the other's",
    }
    return f"     {after} {how[found.calibrated.how]}"


def _table(results: Results) -> list[str]:
    """A row a network, then what they have in common."""
    first, names = results.members[0], results.shared()
    what = "run" if results.are_runs else "checkpoint"
    views = "" if results.tta == "none" else f", tta {results.tta}"
    head = (
        f"{results.split} split, {counted(first.num_examples, 'image')}, "
        f"{counted(len(results.members), what)}{views}"
    )
    step_of = (lambda member: str(member.step)) if results.are_runs else lambda _: ""
    rows = [(member.name, step_of(member), member.metrics) for member in results.members]
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
        num_runs = len(results.members)
        lines.append(f"  {CONFIDENCE:.0%}: of the mean, by Student's t over {num_runs} runs")
    if results.no_spread:
        lines.append(f"  no mean or interval over {what}s: {results.no_spread}")
    for name, why in _without_temperature(results).items():
        lines.append(f"  no temperature for {name}: {why}")
    return lines + _intervals(results)


def _intervals(results: Results) -> list[str]:
    """A row a network, and one of the ensemble: how far the choice of the images may matter."""
    names = results.sampled()
    if not names:
        return []
    rows = [(m.name, m.evaluation.intervals) for m in results.members if m.evaluation is not None]
    if results.ensemble is not None:
        rows.append(("ensemble", results.ensemble.intervals))
    width = max(len(label) for label, _ in rows)
    resamples = counted(results.num_resamples, "resample")
    lines = [f"{CONFIDENCE:.0%} intervals of each, by {resamples} of the images"]
    lines.append(f"  {'':<{width}}" + "".join(f"  {name:>{WIDE}}" for name in names))
    for label, found in rows:
        ends = [f"{found[name].low:.4f} to {found[name].high:.4f}" for name in names]
        lines.append(f"  {label:<{width}}" + "".join(f"  {text:>{WIDE}}" for text in ends))
        if empty := [name for name in names if found[name].is_empty]:
            lines[-1] += f"{EMPTY} of {', '.join(empty)}"
    return lines


def _without_temperature(results: Results) -> dict[str, str]:
    """The networks that have no temperature, and why not."""
    found = {member.name: member.evaluation for member in results.members}
    found |= {} if results.ensemble is None else {"the ensemble": results.ensemble}
    return {name: e.no_temperature for name, e in found.items() if e and e.no_temperature}


def _cell(name: str, text: str) -> str:
    return f"  {text:>{max(SHORT, len(name))}}"
