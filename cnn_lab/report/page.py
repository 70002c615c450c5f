"""The HTML page of a run: what it was, how it went, how it ended."""

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import jinja2

from cnn_lab.core.files import write_bytes, write_text
from cnn_lab.report.curves import learning_curves
from cnn_lab.train.log import METRICS_FILE, read_rows
from cnn_lab.train.workdir import CONFIG_FILE, read_record

TEMPLATE = "run.html.jinja"  # beside this file


@dataclasses.dataclass(frozen=True)
class Report:
    """Where a report was written."""

    page: Path
    curves: Path


def write_report(workdir: Path) -> Report:
    """Writes `report.html` and `learning_curves.png` from what a run has recorded."""
    record, rows = read_record(workdir), read_rows(workdir / METRICS_FILE)
    progress = record.get("progress", {})
    selection = progress.get("selection", {})
    best_step = selection.get("best_step")
    picture = learning_curves(rows, best_step=best_step)
    report = Report(workdir / "report.html", workdir / "learning_curves.png")
    validation = [row for row in rows if row["split"] == "validation"]
    metrics = [name for name in ("loss", "accuracy") if any(name in row for row in validation)]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cnn_lab.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(TEMPLATE).render(
        title=f"Run {workdir.name}",
        facts=_facts(record, rows),
        curves=base64.b64encode(picture).decode(),
        metrics=metrics,
        rows=validation,
        best_step=best_step,
        sessions=record.get("sessions", []),
        config=json.dumps(json.loads((workdir / CONFIG_FILE).read_text()), indent=2),
    )
    write_bytes(report.curves, picture)
    write_text(report.page, page)
    return report


def _facts(record: dict[str, Any], rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    config, progress = record["config"], record.get("progress", {})
    selection = progress.get("selection", {})
    facts = [
        ("Model", f"{config['model']['name']}, {record['num_parameters']:,} parameters"),
        ("Data", f"{config['data']['name']}, {len(record['class_names'])} classes"),
        (
            "Optimizer",
            f"{config['optim']['name']}, learning rate {config['optim']['learning_rate']:g}",
        ),
        ("Status", f"{record['status']} after {progress.get('step', 0):,} steps"),
        ("Training time", f"{progress.get('seconds', 0.0):.1f} s"),
        ("Compile time", f"{record['compile_seconds']:.1f} s"),
    ]
    if selection.get("best_value") is not None:
        metric = config["selection"]["metric"]
        value, step = selection["best_value"], selection["best_step"]
        facts.append((f"Best validation {metric}", f"{value:.4f} at step {step:,}"))
    rates = [row["examples_per_second"] for row in rows if "examples_per_second" in row]
    if rates:
        facts.append(("Throughput", f"{sorted(rates)[len(rates) // 2]:,.0f} images/s (median)"))
    openings = record.get("test_openings", [])
    if openings:
        last = ", ".join(f"{k} {v:.4f}" for k, v in openings[-1].items() if isinstance(v, float))
        facts.append(("Test", f"{last} (opened {len(openings)} time(s))"))
    return facts
