"""What a study has found before, kept in its folder, so that nothing is computed twice."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnn_lab.analysis.records import Row, from_json, to_json
from cnn_lab.config import Computation
from cnn_lab.core.files import write_text
from cnn_lab.study import computations, measures
from cnn_lab.study.finished import Values, from_pairs, to_pairs

MEASURED = "measured.json"  # of a run
COMPUTED = "computed"


def values(workdir: Path, key: str, take: Callable[[], Values]) -> Values:
    """The values of a measure; series and place belong to the study and are not kept.

    Args:
        workdir: the run's.
        key: of the measure.
        take: measures where nothing is kept.
    """
    file = workdir / MEASURED
    kept = _read(file, {"version": measures.VERSION})
    if key not in kept:
        kept[key] = to_pairs(take())
        write_text(file, json.dumps(kept))
    return from_pairs(kept[key])


def computed(folder: Path, computation: Computation, log: Callable[[str], None]) -> list[Row]:
    """The rows of a computation.

    Args:
        folder: the study's.
        computation: which, and with which options.
        log: takes a line for the user where it has to be computed.
    """
    metadata = {
        "version": computations.VERSION,
        "name": computation.name,
        "options": dict(computation.options),
    }
    text = json.dumps(metadata, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    file = folder / COMPUTED / f"{computation.name}-{digest}.json"
    kept = _read(file, json.loads(text))
    if "rows" not in kept:
        log(f"computing {computation.name}")
        kept["rows"] = to_json(computations.COMPUTATIONS[computation.name](**computation.options))
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(kept))
    return from_json(kept["rows"])


def _read(file: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    """Contents of a cache file; `metadata` alone where it is missing, damaged or of others."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return metadata
    same = isinstance(kept, dict) and all(
        kept.get(name) == value for name, value in metadata.items()
    )
    return kept if same else metadata
