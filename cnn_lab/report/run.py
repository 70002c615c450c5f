"""The HTML page of a run: its config, its learning curves, its end, its tests."""

import contextlib
import json
import shlex
from pathlib import Path
from typing import Any

from cnn_lab.config import NO_DATA
from cnn_lab.core.files import write_bytes, write_text
from cnn_lab.core.targets import TargetSpec
from cnn_lab.report.curves import learning_curves
from cnn_lab.report.render import Report, render
from cnn_lab.workdir.metric_writers import METRICS_FILE, metric_names, read_rows
from cnn_lab.workdir.run_dir import CONFIG_FILE, read_record, trained_in_words


def write_report(workdir: Path) -> Report:
    """Writes `report.html` and `learning_curves.png` from what a run has recorded until now."""
    record, rows = read_record(workdir), read_rows(workdir / METRICS_FILE)
    best_step = record.get("progress", {}).get("selection", {}).get("best_step")
    curves = learning_curves(rows, best_step=best_step)
    report = Report(workdir / "report.html", workdir / "learning_curves.png")
    validation = [row for row in rows if row["split"] == "validation"]
    openings = record.get("test_openings", [])
    config = json.loads((workdir / CONFIG_FILE).read_text(encoding="utf-8"))
    page = render(
        "run.html.jinja",
        title=f"{_experiment(config, record)} in {workdir}",
        facts=_facts(config, record, rows),
        curves=curves,
        metrics=metric_names(validation),
        rows=validation,
        test_metrics=[name for name in metric_names(openings) if name != "tta"],
        openings=openings,
        best_step=best_step,
        sessions=record.get("sessions", []),
        config=json.dumps(config, indent=2),
    )
    write_bytes(report.beside, curves)
    write_text(report.page, page)
    return report


def _experiment(config: dict[str, Any], record: dict[str, Any]) -> str:
    """The experiment file that a run was started with, as far as its first command names one."""
    command = next((session.get("command", "") for session in record.get("sessions", [])), "")
    with contextlib.suppress(ValueError):  # quotes that do not match
        flags = (part.lstrip("-") for part in shlex.split(command))
        references = [flag.partition("=")[2] for flag in flags if flag.startswith("config=")]
        if references and not references[-1].endswith(".json"):
            path, _, argument = references[-1].partition(".py")
            return f"{path.rpartition('experiments/')[2]}{argument}"
    model, data = config["model"]["name"], config["data"]["name"]
    return f"imported weights of {model}" if data == NO_DATA else f"{model} on {data}"


def _facts(
    config: dict[str, Any], record: dict[str, Any], rows: list[dict[str, Any]]
) -> list[tuple[str, str]]:
    """Names and texts; a run that was cut off or copied has recorded fewer."""
    progress = record.get("progress", {})
    model, data, optim = config["model"]["name"], config["data"]["name"], config["optim"]
    if "num_parameters" in record:
        model += f", {record['num_parameters']:,} parameters"
    if "target" in record:
        data += f", {TargetSpec.from_json(record['target']).describe()}"
    facts = [
        ("Model", model),
        ("Data", data),
        ("Optimizer", f"{optim['name']}, learning rate {optim['learning_rate']:g}"),
    ]
    if lineage := record.get("transfer"):
        source = f"{lineage['source']}, step {lineage['checkpoint']}"
        facts.append(("Fine-tuned from", f"{source}; trained {trained_in_words(lineage)}"))
    augment = config["data"].get("augment", {})
    if augment.get("strength", "none") != "none" or augment.get("options") or augment.get("extra"):
        options = [f"{name} {value}" for name, value in augment["options"].items()]
        changed = ", ".join([*augment.get("extra", ()), *options])
        recipe = f"{augment['recipe']}, " if augment["recipe"] else ""
        facts.append(("Augmentation", f"{recipe}{augment['strength']} {changed}".strip()))
    if average := config.get("average"):
        facts.append(("Average of the weights", average["kind"]))
    if "status" in record:
        steps = f" after {progress['step']:,} steps" if progress else ""
        facts.append(("Status", record["status"] + steps))
    if progress:
        facts.append(("Training time", f"{progress['seconds']:.1f} s"))
    if "compile_seconds" in record:
        facts.append(("Compile time before the first step", f"{record['compile_seconds']:.1f} s"))
    selection = progress.get("selection", {})
    if selection.get("best_value") is not None:
        metric = record.get("selection_metric", "metric")
        value, step = selection["best_value"], selection["best_step"]
        facts.append((f"Best validation {metric}", f"{value:.4f} at step {step:,}"))
    rates = [row["examples_per_second"] for row in rows if "examples_per_second" in row]
    if rates:
        facts.append(("Throughput", f"{sorted(rates)[len(rates) // 2]:,.0f} images/s (median)"))
    return facts
