"""Comparison of what all processes of a training must have alike; differences are named."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from cnn_lab.core.errors import ConfigError
from cnn_lab.distributed.processes import Processes

SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_numpy_dtype_promotion",
)


def check_same(processes: Processes, values: Mapping[str, Any], remedy: str) -> None:
    """Refuses processes that differ in something.

    Args:
        processes: all of them call this.
        values: name -> value, of this process; JSON.
        remedy: what the user can do.

    Raises:
        ConfigError: names the first value that differs.
    """
    first, *others = processes.all_gather(dict(values))
    for index, other in enumerate(others, start=1):
        for name in [*first, *sorted({*other} - {*first})]:
            found, wanted = other.get(name), first.get(name)
            if found != wanted:
                raise ConfigError(
                    f"Process {index} has another {name} than process 0 ({_short(found)} and "
                    f"{_short(wanted)}); {remedy}."
                )


def check_same_program(processes: Processes, versions: Mapping[str, str]) -> None:
    """Refuses processes whose code, packages or settings may compute other numbers.

    Args:
        processes: all of them call this.
        versions: of the packages that count, by name.

    Raises:
        ConfigError: they differ.
    """
    installed = {f"version of {name}": version for name, version in versions.items()}
    installed["version of cnn_lab's code"] = _digest_of_code()
    check_same(processes, installed, "start all of them from the same installation")
    check_same(processes, _settings(), "give all of them the same environment")


def check_same_config(
    processes: Processes, config: Mapping[str, Any], exempt: tuple[str, ...] = ()
) -> None:
    """Refuses processes whose configs differ, in any field.

    Args:
        processes: all of them call this.
        config: of this one, as nested dicts of JSON values.
        exempt: dotted paths of fields that may differ.

    Raises:
        ConfigError: names the field.
    """
    fields = _flattened(config, "config")
    values = {path: value for path, value in fields.items() if path not in exempt}
    check_same(processes, values, "give all of them the same --config and overrides")


def check_same_data(processes: Processes, fingerprint: str) -> None:
    """Refuses processes that read other data.

    Raises:
        ConfigError: they do.
    """
    remedy = "let all of them read the same data set, or copies of it"
    check_same(processes, {"fingerprint of its data": fingerprint}, remedy)


def _flattened(value: Any, path: str) -> dict[str, Any]:
    """Leaves of nested dicts, by dotted path."""
    if not isinstance(value, Mapping) or not value:
        return {path: value}
    leaves: dict[str, Any] = {}
    for name, child in value.items():
        leaves |= _flattened(child, f"{path}.{name}")
    return leaves


def _settings() -> dict[str, Any]:
    """Settings, as far as users set them, that change the numbers of the same program."""
    values = {name: str(getattr(jax.config, name, None)) for name in SETTINGS}
    for variable in ("XLA_FLAGS", "LIBTPU_INIT_ARGS"):
        for flag in os.environ.get(variable, "").split():
            name, _, value = flag.partition("=")
            if "_dump" not in name:
                values[f"{name} of {variable}"] = value
    return values


def _digest_of_code() -> str:
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(os.fsencode(file.relative_to(root)) + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
