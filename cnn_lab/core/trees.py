"""Parameter trees as flat tables of slash-separated paths."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from cnn_lab.core.arrays import Tree

_LEAVES_AT_ONCE = 8  # on the host, to be hashed


def path_of(key_path: Iterable[Any]) -> str:
    """Joins a JAX key path into `conv1/kernel`."""
    return "/".join(
        str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in key_path
    )


def flatten(tree: Tree) -> dict[str, Any]:
    """Returns path -> leaf, in the tree's own order."""
    return {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def unflatten(leaves: Mapping[str, Any]) -> Tree:
    """The tree of nested dicts that `flatten` makes such a table of."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *above, name = path.split("/")
        node = tree
        for part in above:
            node = node.setdefault(part, {})
        node[name] = leaf
    return tree


def partition(tree: Tree, chosen: Callable[[str], bool]) -> tuple[Tree, Tree]:
    """Splits a tree of nested dicts in two: the leaves whose path is chosen, and the others.

    Dicts that are left without a leaf are left out.
    """

    def part(node: Tree, prefix: str) -> tuple[Tree, Tree]:
        first, second = {}, {}
        for name, value in node.items():
            path = f"{prefix}{name}"
            if isinstance(value, Mapping):
                ours, others = part(value, f"{path}/")
            else:
                ours, others = (value, None) if chosen(path) else (None, value)
            if ours is not None and not _is_empty(ours):
                first[name] = ours
            if others is not None and not _is_empty(others):
                second[name] = others
        return first, second

    return part(tree, "")


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
    """Bytes of all leaves; works on shapes (`jax.eval_shape`) too."""
    return sum(
        int(np.prod(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
        if not _is_key(leaf)
    )


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

    def host(leaf: Any) -> Any:
        if _is_key(leaf):
            leaf = jax.random.key_data(leaf)
        if isinstance(leaf, jax.Array) and not (
            leaf.is_fully_addressable or leaf.is_fully_replicated
        ):
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
        return jax.device_get(leaf)

    found: dict[str, Future[str]] = {}
    with ThreadPoolExecutor() as pool:
        waiting: deque[Future[str]] = deque()
        for path, leaf in flatten(tree).items():
            if len(waiting) == _LEAVES_AT_ONCE:
                waiting.popleft().result()
            found[path] = pool.submit(digest, host(leaf))
            waiting.append(found[path])
        return {path: future.result() for path, future in found.items()}


def first_non_finite(tree: Tree) -> str | None:
    """Path of the first leaf that holds a NaN or an infinity, or None."""
    for path, leaf in flatten(tree).items():
        if not np.all(np.isfinite(np.asarray(leaf, dtype=np.float32))):
            return path
    return None


def _is_empty(node: Any) -> bool:
    return isinstance(node, Mapping) and not node


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(getattr(leaf, "dtype", np.int32), jax.dtypes.prng_key)
