"""Parameter trees as flat tables of slash-separated paths."""

import functools
import hashlib
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.experimental import multihost_utils

from cnn_lab.core.arrays import Tree

_LEAVES_AT_ONCE = 8  # on the host, to be hashed

# A JAX key path as `conv1/kernel`; and the tree of nested dicts of a table path -> leaf.
path_of = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
unflatten = functools.partial(traverse_util.unflatten_dict, sep="/")


def flatten(tree: Tree) -> dict[str, Any]:
    """Returns path -> leaf, in the tree's own order."""
    return {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def partition(tree: Tree, chosen: Callable[[str], bool]) -> tuple[Tree, Tree]:
    """Splits a tree of nested dicts in two: the leaves whose path is chosen, and the others.

    Dicts that are left without a leaf are left out.
    """
    first, second = {}, {}
    for path, leaf in traverse_util.flatten_dict(tree, sep="/").items():
        (first if chosen(path) else second)[path] = leaf
    return unflatten(first), unflatten(second)


def merge(first: Tree, second: Tree) -> Tree:
    """Two trees of nested dicts as one; what both have is the second one's."""
    both = dict(first)
    for name, value in second.items():
        inside = isinstance(value, Mapping) and isinstance(both.get(name), Mapping)
        both[name] = merge(both[name], value) if inside else value
    return both


def count(tree: Tree) -> int:
    """Number of values in all leaves; works on shapes (`jax.eval_shape`) too."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def num_bytes(tree: Tree) -> int:
    """Bytes of all leaves but random keys; works on shapes (`jax.eval_shape`) too."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if not _is_key(leaf)]
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def digests(tree: Tree) -> dict[str, str]:
    """Returns path -> SHA-256 of the leaf's dtype, shape and bytes (keys by their data).

    Hashing runs in threads, one a leaf: hashlib releases the interpreter lock. Leaves whose parts
    other processes hold are gathered, which all of them must take part in; of these, and of what is
    copied from other devices, the host holds only a few at a time.
    """

    def digest(leaf: Any) -> str:
        array = np.asarray(leaf, order="C")
        found = hashlib.sha256(f"{array.dtype}{array.shape}".encode())
        found.update(array.reshape(-1).view(np.uint8).data)  # in place: leaves may be gigabytes
        return found.hexdigest()

    found: dict[str, Future[str]] = {}
    waiting: deque[Future[str]] = deque()
    with ThreadPoolExecutor() as pool:
        for path, leaf in flatten(tree).items():
            if len(waiting) == _LEAVES_AT_ONCE:
                waiting.popleft().result()
            values = jax.random.key_data(leaf) if _is_key(leaf) else leaf
            if isinstance(values, jax.Array) and not (
                values.is_fully_addressable or values.is_fully_replicated
            ):
                values = multihost_utils.process_allgather(values, tiled=True)
            found[path] = pool.submit(digest, jax.device_get(values))
            waiting.append(found[path])
        return {path: future.result() for path, future in found.items()}


def first_non_finite(tree: Tree) -> str | None:
    """Path of the first leaf that holds a NaN or an infinity, or None."""
    for path, leaf in flatten(tree).items():
        if not np.all(np.isfinite(np.asarray(leaf, dtype=np.float32))):
            return path
    return None


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(getattr(leaf, "dtype", np.int32), jax.dtypes.prng_key)
