"""Files of weights as tensors by name: safetensors, and PyTorch's where that is installed.

A PyTorch file is a pickle, which can run code when it is read; only PyTorch's own loader for
weights alone is used, which refuses that.
"""

import hashlib
import importlib
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Shaped

from cnn_lab.core.errors import CheckpointError, ConfigError
from cnn_lab.core.files import write_bytes

SAFETENSORS = ".safetensors"
TORCH = (".bin", ".pt", ".pth")
WRAPPERS = ("state_dict", "model_state_dict", "model")  # where a training keeps its weights


def read_weights(path: Path) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Reads the tensors of a file.

    Raises:
        CheckpointError: there is no such file, it is damaged, of another kind, or holds code.
    """
    if not path.is_file():
        problem = f"There is no file {path}; give a safetensors or PyTorch file."
        raise CheckpointError(problem, where=str(path))
    if path.suffix in TORCH:
        return _read_torch(path)
    if path.suffix != SAFETENSORS:
        problem = (
            f"{path} is of no known kind; give a {SAFETENSORS} file, or one of PyTorch's "
            f"({', '.join(TORCH)})."
        )
        raise CheckpointError(problem, where=str(path), found=path.suffix)
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        problem = f"{path} is damaged or no safetensors file ({error}); fetch or convert it again."
        raise CheckpointError(problem, where=str(path)) from None


def write_safetensors(
    path: Path, tensors: Mapping[str, Shaped[np.ndarray, "..."]], metadata: Mapping[str, str]
) -> None:
    """Writes tensors and a few words about them, whole or not at all."""
    write_bytes(path, safetensors.numpy.save(dict(tensors), {"format": "pt", **metadata}))


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_renames(texts: Sequence[str]) -> list[tuple[re.Pattern[str], str]]:
    """`REGEX=>REPLACEMENT` texts as pairs; a `ConfigError` where one is no such pair."""
    renames = []
    for text in texts:
        pattern, arrow, replacement = text.partition("=>")
        if not arrow:
            wanted = "REGEX=>REPLACEMENT, such as '^module\\.=>'"
            raise ConfigError(where="--rename", found=text, allowed=wanted)
        try:
            renames.append((re.compile(pattern), replacement))
        except re.error as error:
            problem = f"--rename={text!r} has no regular expression: {error}."
            raise ConfigError(problem, where="--rename", found=text) from None
    return renames


def rename(
    tensors: Mapping[str, Any], renames: Sequence[tuple[re.Pattern[str], str]]
) -> dict[str, Any]:
    """The same tensors under other names, one rule after the other.

    Raises:
        ConfigError: a rule changes nothing, refers to a group that it has not, or gives two tensors
            one name.
    """
    named = dict(tensors)
    for pattern, replacement in renames:
        rule, before = f"{pattern.pattern}=>{replacement}", named
        named, origin, changed = {}, {}, 0
        for name, tensor in before.items():
            try:
                new, count = pattern.subn(replacement, name)
            except (re.error, IndexError) as error:
                problem = f"--rename={rule}: the replacement is wrong: {error}."
                raise ConfigError(problem, where="--rename", found=rule) from None
            if new in named:
                problem = f"--rename={rule} would call both {origin[new]} and {name} {new!r}."
                raise ConfigError(problem, where="--rename", found=rule)
            named[new], origin[new], changed = tensor, name, changed + count
        if not changed:
            example = next(iter(before), "none")
            problem = f"--rename={rule} changes no name of the file; the first is {example!r}."
            raise ConfigError(problem, where="--rename", found=rule)
    return named


def _read_torch(path: Path) -> dict[str, Shaped[np.ndarray, "..."]]:
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        problem = (
            f"{path} is a PyTorch file and PyTorch is not installed; `pip install torch`, or "
            "convert the file to safetensors where it is."
        )
        raise CheckpointError(problem, where=str(path)) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other pickle protocols
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if re.search(r"[Uu]nsupported|TorchScript", str(error)):
            problem = (
                f"{path} holds pickled code beside weights, which could do anything when it is "
                "read, so it was not; save `model.state_dict()`, or convert it to safetensors "
                "where you trust it."
            )
            raise CheckpointError(problem, where=str(path)) from None
        reason = textwrap.shorten(str(error) or type(error).__name__, 100, placeholder=" ...")
        problem = f"{path} is damaged or no PyTorch file ({reason}); fetch it again."
        raise CheckpointError(problem, where=str(path)) from None
    tensors = _tensors_in(content, torch.Tensor)
    if not tensors:
        problem = f"{path} holds no weights by name; save `model.state_dict()` with torch.save."
        raise CheckpointError(problem, where=str(path))
    return {  # numpy lacks bfloat16
        name: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().cpu().numpy()
        for name, tensor in tensors.items()
    }


def _tensors_in(content: Any, kind: type) -> dict[str, Any]:
    """The tensors of a dict, or of the one inside a training's that holds its weights."""
    if not isinstance(content, Mapping):
        return {}
    tensors = {str(name): value for name, value in content.items() if isinstance(value, kind)}
    inner = (_tensors_in(content.get(name), kind) for name in WRAPPERS)
    return tensors or next(filter(None, inner), {})
