"""How a stored tree and the one that is expected differ, in words."""

import jax
import jax.numpy as jnp

from cnn_lab.checkpoint.reader import describe_difference


def leaf(*shape: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def test_trees_that_agree_have_no_difference():
    assert describe_difference({"a": {"b": leaf(2, 3)}}, {"a": {"b": leaf(2, 3)}}) == ""


def test_every_kind_of_difference_is_named():
    found = {"a": leaf(2), "old": leaf(1), "c": leaf(2, 3), "d": leaf(4), "e": leaf(5)}
    expected = {
        "a": leaf(2),
        "new": leaf(7),
        "c": leaf(3, 2),
        "d": leaf(4, dtype=jnp.bfloat16),
        "e": leaf(6, dtype=jnp.int32),
    }
    assert describe_difference(found, expected).splitlines() == [
        "  missing in the checkpoint: new (7,)",
        "  only in the checkpoint: old (1,)",
        "  other shape: c is (2, 3) in the checkpoint, (3, 2) in the model",
        "  other shape: e is (5,) in the checkpoint, (6,) in the model",
        "  other dtype: d is float32 in the checkpoint, bfloat16 in the model",
        "  other dtype: e is float32 in the checkpoint, int32 in the model",
    ]


def test_many_differences_are_cut_short():
    expected = {f"layer{index:02}": leaf(1) for index in range(25)}
    lines = describe_difference({}, expected).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "  ... and 5 more"
