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

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { padding: .2rem 1rem .2rem 0; text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
tr.best { font-weight: 600; background: #fbeee6; } img { max-width: 100%; }
pre { background: #f6f6f4; padding: 1rem; overflow-x: auto; font-size: 13px; }
.scroll { max-height: 24rem; overflow-y: auto; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<table>{% for name, value in facts %}<tr><th>{{ name }}</th><td>{{ value }}</td></tr>{% endfor %}</table>
<h2>Learning curves</h2>
<img alt="Loss and accuracy over epochs, train and validation" src="data:image/png;base64,{{ curves }}">
<h2>Evaluations</h2>
<div class="scroll"><table>
<tr><th class="number">step</th><th class="number">epoch</th>{% for name in metrics %}<th class="number">{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}<tr{% if row.step == best_step %} class="best"{% endif %}><td class="number">{{ row.step }}</td><td class="number">{{ "%.4g"|format(row.epoch) }}</td>{% for name in metrics %}<td class="number">{{ "%.4f"|format(row[name]) }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
<h2>Sessions</h2>
<table><tr><th>started</th><th>steps</th><th>ended</th><th>devices</th><th>jax</th><th>revision</th></tr>
{% for s in sessions %}<tr><td>{{ s.started }}</td><td>{{ s.first_step }} to {{ s.last_step }}</td><td>{{ s.status }}</td><td>{{ s.devices }}</td><td>{{ s.packages.jax }}</td><td>{% if s.git %}{{ s.git.sha[:10] }}{% if s.git.dirty %} + changes{% endif %}{% else %}unknown{% endif %}</td></tr>
{% endfor %}</table>
<h2>Config</h2>
<pre>{{ config }}</pre>
</body>
</html>
"""


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
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(TEMPLATE).render(
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
