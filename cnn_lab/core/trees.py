"""Parameter trees as flat tables of slash-separated paths."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_lab.core.shapes import Tree


def path_of(key_path: Iterable[Any]) -> str:
    """Joins a JAX key path into `conv1/kernel`."""
    return "/".join(
        str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in key_path
    )


def flatten(tree: Tree) -> dict[str, Any]:
    """Returns path -> leaf, in the tree's own order."""
    return {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def count(tree: Tree) -> int:
    """Number of values in all leaves; works on shapes (`jax.eval_shape`) too."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def num_bytes(tree: Tree) -> int:
    """Bytes of all leaves; works on shapes (`jax.eval_shape`) too."""
    return sum(
        int(np.prod(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
        if not _is_key(leaf)
    )


def digests(tree: Tree) -> dict[str, str]:
    """Returns path -> SHA-256 of the leaf's dtype, shape and bytes (keys by their data).

    Hashing runs in threads, one a leaf: hashlib releases the interpreter lock.
    """

    def digest(leaf: Any) -> str:
        array = np.asarray(leaf, order="C")
        found = hashlib.sha256(f"{array.dtype}{array.shape}".encode())
        found.update(array.reshape(-1).view(np.uint8).data)  # in place: leaves may be gigabytes
        return found.hexdigest()

    def host(leaf: Any) -> Any:
        if _is_key(leaf):
            leaf = jax.random.key_data(leaf)
        return jax.device_get(leaf)

    leaves = {path: host(leaf) for path, leaf in flatten(tree).items()}
    with ThreadPoolExecutor() as pool:
        return dict(zip(leaves, pool.map(digest, leaves.values()), strict=True))


def first_non_finite(tree: Tree) -> str | None:
    """Path of the first leaf that holds a NaN or an infinity, or None."""
    for path, leaf in flatten(tree).items():
        if not np.all(np.isfinite(np.asarray(leaf, dtype=np.float32))):
            return path
    return None


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(getattr(leaf, "dtype", np.int32), jax.dtypes.prng_key)
