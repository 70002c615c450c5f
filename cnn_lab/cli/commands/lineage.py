"""Shows the weights that a run began with, what was trained of them, and their own origin.

Examples:
  cnn-lab lineage --workdir=runs/tuned
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnn_lab.cli.flags import WORKDIR, Invocation
from cnn_lab.cli.runtime import log
from cnn_lab.config import NO_DATA
from cnn_lab.core.text import counted
from cnn_lab.workdir.run_dir import lineage_in, read_record, stored_config, trained_in_words

FLAGS = (WORKDIR,)


def main(invocation: Invocation) -> int:
    """Prints a run and its sources, the newest first."""
    workdir = Path(invocation.flags.workdir)
    config, record = stored_config(workdir), read_record(workdir)
    steps = record.get("progress", {}).get("step")  # 0 where nothing was trained, as of an import
    after = f" after {counted(steps, 'step')}" if steps else ""
    status = record.get("status", "not begun") + after
    data = "" if config.data.name == NO_DATA else f" on {config.data.name}"
    log(f"{workdir}: {config.model.name}{data}, {status}")
    lineage = lineage_in(record)
    if lineage is None:
        log("  begun with weights of its own")
    for line in _lines_of(lineage):
        log(f"  {line}")
    return 0


def _lines_of(lineage: Mapping[str, Any] | None) -> list[str]:
    """Lines of a lineage, each earlier generation further to the right."""
    if lineage is None:
        return []
    lines, before = [], []
    if "imported" in lineage:
        lines.append("imported from {file}, SHA-256 {sha256}".format(**lineage["imported"]))
    for member in lineage.get("members", ()):
        lines += [f"one of its mean: {member['name']}", f"  weights  {member['digest']}"]
        lines += [f"  {line}" for line in _lines_of(member["lineage"])]
    if "source" in lineage:
        lines, before = _lines_of_fine_tuning(lineage), _lines_of(lineage["before"])
    return [*lines, *(f"  {line}" for line in before)]


def _lines_of_fine_tuning(lineage: Mapping[str, Any]) -> list[str]:
    source = lineage["source"]
    gone = "" if Path(source).is_dir() else " (no longer there)"
    return [
        f"from {source}, step {lineage['checkpoint']}{gone}",
        f"  weights  {lineage['digest']}",
        f"  trained  {trained_in_words(lineage)}",
        *(f"  with     {setting}" for setting in lineage.get("settings", ())),
        *(f"  note     {note}" for note in lineage["notes"]),
    ]
