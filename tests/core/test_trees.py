"""Parameter trees as tables of paths."""

import hashlib
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_lab.core import trees

TREE = {"head": {"kernel": jnp.zeros((2, 3)), "bias": jnp.ones((3,), jnp.bfloat16)}, "a": [1, (2,)]}


def test_flatten_joins_keys_indices_and_attributes():
    assert list(trees.flatten(TREE)) == ["a/0", "a/1/0", "head/bias", "head/kernel"]
    assert list(trees.flatten(optax.TraceState({"w": 1}))) == ["trace/w"]
    assert list(trees.flatten(3)) == [""]


def test_count_and_bytes_work_on_arrays_and_on_shapes():
    tree = {**TREE["head"], "scalar": jnp.zeros((), jnp.int32), "empty": jnp.zeros((0, 4))}
    for leaves in (tree, jax.eval_shape(lambda: tree)):
        assert trees.count(leaves) == 2 * 3 + 3 + 1
        assert trees.num_bytes(leaves) == 4 * 6 + 2 * 3 + 4
    assert trees.num_bytes({"key": jax.random.key(0), **tree}) == trees.num_bytes(tree)


def test_digests_depend_on_value_type_shape_and_nothing_else():
    digest = lambda leaf: trees.digests({"a": leaf})["a"]  # noqa: E731
    base = np.arange(6, dtype=np.float32).reshape(2, 3)
    others = [
        base.reshape(3, 2),
        base.reshape(1, 2, 3),
        base.astype(np.int32),
        np.where(base == 5, np.nextafter(base, 9), base),
        np.float32(1),
        np.ones((1,), np.float32),
        jax.random.key(0),
        jax.random.key(1),
        jax.random.key_data(jax.random.key(1))[None],
    ]
    found = [digest(leaf) for leaf in (base, *others)]
    assert len(set(found)) == len(found)
    assert digest(jnp.asarray(base)) == digest(np.asfortranarray(base)) == found[0]
    assert digest(jax.random.key(1)) == found[-2]


@pytest.mark.parametrize(
    "leaf",
    [np.zeros((), np.int32), np.zeros((0, 3), np.float32), np.ones((3,), jnp.bfloat16)],
    ids=["scalar", "empty", "bfloat16"],
)
def test_a_digest_is_of_type_shape_and_bytes(leaf):
    head = f"{leaf.dtype}{leaf.shape}".encode()
    assert trees.digests({"a": leaf})["a"] == hashlib.sha256(head + leaf.tobytes()).hexdigest()


def test_a_large_leaf_is_not_copied():
    leaf = np.ones(2**22, np.float32)
    tracemalloc.start()
    try:
        trees.digests({"a": leaf})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < leaf.nbytes / 8


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_first_non_finite_leaf_is_named(bad, dtype):
    fine = jnp.ones((2, 2), dtype)
    broken = fine.at[1, 0].set(bad)
    assert trees.first_non_finite({"a": fine, "b": jnp.arange(3)}) is None
    assert trees.first_non_finite({"c": broken, "b": {"x": fine, "y": broken}}) == "b/y"
