"""Features of a split by a frozen backbone: computed once, cached beside the data.

A cache is named by all that its content depends on: the compiled program (architecture,
preprocessing, augmentation and batch size), the weights, the data, the examples and their order,
the version of JAX and the kind of device. So a stale one is never found. A cache that vanished, is
damaged or lies under the name of another one is computed anew.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnn_lab.core import trees
from cnn_lab.core.arrays import Tree
from cnn_lab.core.files import write_text
from cnn_lab.core.text import counted
from cnn_lab.data.loaders.in_memory import row_finder
from cnn_lab.data.loaders.loader import Loader
from cnn_lab.data.parallel import ThrottledLog
from cnn_lab.data.source import Source
from cnn_lab.data.storage.array_cache import load_array, store_arrays
from cnn_lab.distributed.mesh import DeviceMesh

BACKBONE = "backbone"
NAMES = ("image", "label")
ORIGIN = "origin.json"
MAX_CACHES = 16  # beside one data set


class FeatureExtractor:
    """Runs the backbone of a classifier over a split, or finds its features in a cache.

    Args:
        model: with a method `features`.
        images: loader of the split, every example once a pass.
        split: `training` or `validation`, for messages.
        num_passes: over the images, each augmented anew.
        facts: further settings that the features depend on, such as how readers crop the images.
    """

    def __init__(
        self,
        model: Any,
        images: Loader,
        source: Source,
        mesh: DeviceMesh,
        split: str,
        num_passes: int = 1,
        facts: Mapping[str, Any] | None = None,
    ):
        self._images, self._source, self._mesh = images, source, mesh
        self._split, self._num_passes, self._facts = split, num_passes, dict(facts or {})

        def features(
            variables: Tree, device_arrays: Tree, raw_batches: Tree, step: jax.Array
        ) -> Tree:
            raw_batch = jax.tree.map(lambda stack: stack[0], raw_batches)
            key = jax.random.key(images.sampler.seed or 0)
            batch = images.prepare(device_arrays, raw_batch, jax.random.fold_in(key, step))
            values = model.apply(variables, batch["image"], method="features")
            return {"image": values.astype(np.float32), "label": batch["label"]}

        self._program = jax.jit(
            features,
            in_shardings=(
                None,  # weights stay where they are
                mesh.shardings_as_placed(images.device_arrays),
                mesh.batches,
                mesh.replicated,
            ),
            out_shardings=mesh.replicated,
        )

    def shapes(self, variables: Tree) -> Tree:
        """Shapes of the features and labels that a call returns, from variables or their shapes."""
        batch = jax.eval_shape(self._program, *self._arguments(variables))
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((self._num_rows, *leaf.shape[1:]), leaf.dtype), batch
        )

    def __call__(self, variables: Tree, log: Callable[[str], None]) -> dict[str, np.ndarray]:
        """Features and labels, one pass after the other, in the order of the indices."""
        lowered = self._program.lower(*self._arguments(variables))
        origin = self._origin(variables, lowered.as_text())
        beside = self._source.pixel_cache
        folder = None if beside is None else beside.parent / f"features-{_digest(origin)[:16]}"
        number = len(self._images.sampler.indices)
        title = f"Features of {counted(number, f'{self._split} image')}"
        title += f" in {counted(self._num_passes, 'pass')}" if self._num_passes > 1 else ""
        with closing(self._images):
            cached = None
            if folder is not None:
                cached = _read_cache(folder, origin, self.shapes(variables), log)
            if cached is not None:
                log(f"{title} found in {folder}.")
                return cached
            start = time.perf_counter()
            features = self._compute(lowered.compile(), variables, log)
        seconds = time.perf_counter() - start
        stored = folder is not None and _write_cache(folder, features, origin)
        log(f"{title} computed in {seconds:.1f} s" + (f", kept in {folder}." if stored else "."))
        return features

    @property
    def _num_rows(self) -> int:
        return self._num_passes * len(self._images.sampler.indices)

    def _arguments(self, variables: Tree) -> tuple[Tree, ...]:
        step = jax.ShapeDtypeStruct((), np.int32)
        images = self._images
        return _backbone_of(variables), images.device_arrays, images.raw_shapes(), step

    def _compute(
        self, program: Callable[..., Tree], variables: Tree, log: Callable[[str], None]
    ) -> dict[str, np.ndarray]:
        images, sampler, tick = self._images, self._images.sampler, ThrottledLog(log)
        frozen, row_of = _backbone_of(variables), row_finder(sampler.indices)
        shapes = self.shapes(variables).items()
        found = {name: np.empty(shape.shape, shape.dtype) for name, shape in shapes}
        start, done = time.perf_counter(), 0

        def collect(step: int, batch: Tree) -> int:
            positions, weights = sampler.batches(step, 1)
            real = weights[0] > 0
            first = step // sampler.steps_per_epoch * len(sampler.indices)
            for name in NAMES:
                found[name][first + row_of(positions[0][real])] = np.asarray(batch[name])[real]
            return int(real.sum())

        pending: list[tuple[int, Tree]] = []
        for step in range(self._num_passes * sampler.steps_per_epoch):
            raw_batches = self._mesh.put(images.load(step, 1), self._mesh.batches)
            number = self._mesh.put(np.int32(step))
            pending.append((step, program(frozen, images.device_arrays, raw_batches, number)))
            if len(pending) > 1:  # one is left running while the next is read
                done += collect(*pending.pop(0))
                rate = done / (time.perf_counter() - start)
                left = (self._num_rows - done) / rate
                tick(
                    f"features of {self._split} images: {done:,} of {self._num_rows:,}, "
                    f"{rate:,.0f}/s, {left:.0f} s left"
                )
        done += collect(*pending.pop())
        assert done == self._num_rows
        return found

    def _origin(self, variables: Tree, program: str) -> dict[str, Any]:
        source, device = self._source, self._mesh.device_grid.devices.flat[0]
        return {
            "program": _digest(program),
            "weights": _digest(trees.digests(_backbone_of(variables))),
            "constants": trees.digests(self._images.device_arrays.get("constants", {})),
            "data": source.info.fingerprint,
            "images": [source.split, source.pixel_format],
            "classes": source.info.class_names,
            "examples": hashlib.sha256(self._images.sampler.indices.tobytes()).hexdigest(),
            "seed": self._images.sampler.seed,
            "passes": self._num_passes,
            "facts": self._facts,
            "jax": jax.__version__,
            "device": [device.device_kind, device.client.platform_version],
        }


def _backbone_of(variables: Tree) -> Tree:
    return {n: {BACKBONE: tree[BACKBONE]} for n, tree in variables.items() if BACKBONE in tree}


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_cache(
    folder: Path, origin: Mapping[str, Any], shapes: Tree, log: Callable[[str], None]
) -> dict[str, np.ndarray] | None:
    """The arrays of a cache; None where it is not there, damaged, or of other features."""
    if not folder.exists():
        return None
    with suppress(OSError, ValueError):
        found = json.loads((folder / ORIGIN).read_text())
        wanted = json.loads(json.dumps(origin))
        if other := sorted(name for name in wanted if found.get(name) != wanted[name]):
            log(f"{folder} holds features of other {', '.join(other)}; they are computed anew.")
            return None
        loaded = ((name, load_array(folder, name, shapes[name].shape)) for name in NAMES)
        arrays = {name: array for name, array in loaded if array is not None}
        if len(arrays) == len(NAMES) and all(arrays[n].dtype == shapes[n].dtype for n in NAMES):
            with suppress(OSError):  # of another user
                os.utime(folder)
            return arrays
    log(f"{folder} is damaged; the features are computed anew.")
    return None


def _write_cache(
    folder: Path, features: Mapping[str, np.ndarray], origin: Mapping[str, Any]
) -> bool:
    """Writes a cache, removes those above `MAX_CACHES`; returns whether it could be written."""
    try:
        if not store_arrays(folder, features):
            return False
        write_text(folder / ORIGIN, json.dumps(origin, indent=1))
    except OSError:
        return False
    with suppress(OSError):
        caches = sorted(folder.parent.glob("features-*"), key=lambda path: path.stat().st_mtime)
        for oldest in caches[:-MAX_CACHES]:
            shutil.rmtree(oldest, ignore_errors=True)
    return True
