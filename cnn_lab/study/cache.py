"""The cache of a study, in its folder and those of its runs, so that nothing is computed twice."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnn_lab.analysis.verdict import Record, from_json, to_json
from cnn_lab.config import Computation
from cnn_lab.core.files import write_text
from cnn_lab.study import computations, measures
from cnn_lab.study.trial import Values

MEASURED = "measured.json"  # of a run
COMPUTED = "computed"


def cached_values(workdir: Path, key: str, take: Callable[[], Values]) -> Values:
    """The values of a measure; series and place belong to the study and are not cached.

    Args:
        workdir: the run's.
        key: of the measure.
        take: measures where nothing is cached.
    """
    file = workdir / MEASURED
    cached = _read(file, {"version": measures.VERSION})
    if key not in cached:
        cached[key] = [[level, v if math.isfinite(v) else None] for level, v in take().items()]
        write_text(file, json.dumps(cached))
    return {level: math.nan if value is None else value for level, value in cached[key]}


def cached_computation(
    folder: Path, computation: Computation, log: Callable[[str], None]
) -> list[Record]:
    """The records of a computation.

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
    cached = _read(file, json.loads(text))
    if "records" not in cached:
        log(f"computing {computation.name}")
        records = computations.COMPUTATIONS[computation.name](**computation.options)
        cached["records"] = to_json(records)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(cached))
    return from_json(cached["records"])


def _read(file: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    """Contents of a cache file; `metadata` alone where it is missing, damaged or of others."""
    try:
        cached = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return metadata
    is_same = isinstance(cached, dict) and all(
        cached.get(name) == value for name, value in metadata.items()
    )
    return cached if is_same else metadata
