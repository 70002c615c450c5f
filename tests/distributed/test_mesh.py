"""How many devices share a batch; the tests have four."""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from cnn_lab.analysis.cost import collectives_in
from cnn_lab.core.errors import ConfigError
from cnn_lab.distributed import mesh as layouts
from cnn_lab.distributed.mesh import choose_num_devices, choose_num_slices, make_mesh


@pytest.mark.parametrize(
    ("batch_size", "num_devices"),
    [(128, 4), (64, 4), (63, 3), (62, 2), (61, 1), (50, 2), (48, 3), (32, 2), (31, 1), (1, 1)],
)
def test_left_free_as_many_as_divide_the_batch_into_16_or_more(batch_size, num_devices):
    assert jax.device_count() == 4
    assert choose_num_devices(batch_size, None) == num_devices


@pytest.mark.parametrize(("batch_size", "requested"), [(8, 4), (6, 3), (2, 2), (7, 1)])
def test_a_request_that_can_be_met_is_met(batch_size, requested):
    assert choose_num_devices(batch_size, requested) == requested


def test_more_devices_than_there_are_are_refused():
    with refused(ConfigError, where="config.mesh.num_devices", found=5):
        choose_num_devices(10, 5)


@pytest.mark.parametrize(("batch_size", "near"), [(10, "8 or 12"), (3, "4"), (5, "4 or 8")])
def test_a_batch_that_the_devices_cannot_share_is_refused(batch_size, near):
    with refused(ConfigError, where="config.train.batch_size", found=batch_size, allowed=near):
        choose_num_devices(batch_size, 4)


@pytest.mark.parametrize("num_devices", [1, 2, 4])
def test_where_arrays_lie(num_devices):
    mesh = make_mesh(num_devices)
    assert mesh.device_grid.devices.flatten().tolist() == jax.devices()[:num_devices]
    stack = jnp.zeros((3, 8, 5))
    whole, split = mesh.put(stack), mesh.put(stack, mesh.batches)
    assert {s.data.shape for s in whole.addressable_shards} == {(3, 8, 5)}
    assert [s.data.shape for s in split.addressable_shards] == [
        (3, 8 // num_devices, 5)
    ] * num_devices


def test_every_micro_batch_is_shared_by_all_devices():
    assert choose_num_devices(128, None, num_parts=4) == 2  # 32 examples, 16 a device
    assert choose_num_devices(64, 4, num_parts=8) == 4
    text = (
        "config.train.batch_size is 12, which 4 devices cannot share evenly in 2 micro-batches; "
        "use 8 or 16, or another config.mesh.num_devices."
    )
    with pytest.raises(ConfigError, match=f"^{text}$"):
        choose_num_devices(12, 4, num_parts=2)


def test_slices_are_neighbours_and_arrays_lie_in_parts_within_them(monkeypatch):
    monkeypatch.setattr(layouts, "MIN_SHARDED_VALUES", 64)
    mesh = make_mesh(4, num_slices=2, shards_state=True)
    assert [[d.id for d in row] for row in mesh.device_grid.devices] == [[0, 1], [2, 3]]
    for shape, part in {
        (8, 12): (8, 6),  # the longest axis
        (9, 12): (9, 6),
        (13, 12): (13, 6),  # the longest one that can be divided
        (13, 11): (13, 11),
        (4, 4): (4, 4),  # not worth it
    }.items():
        assert mesh.of(shape).shard_shape(shape) == part
    assert mesh.batches.shard_shape((3, 8, 5)) == (3, 2, 5)
    assert mesh.bytes_of({"a": jnp.zeros((8, 12)), "b": jnp.zeros((4, 4))}) == 4 * (48 + 16)


def test_slices_that_devices_cannot_make_up_are_refused():
    assert choose_num_slices(4, None) == 1
    assert choose_num_slices(4, 2) == 2
    with refused(ConfigError, where="config.mesh.num_slices", found=3):
        choose_num_slices(4, 3)


def test_slices_of_different_sizes_are_refused(monkeypatch):
    def lying(*slices: int) -> None:
        devices = [
            SimpleNamespace(process_index=number // 4, slice_index=index, id=number)
            for number, index in enumerate(slices)
        ]
        monkeypatch.setattr(jax, "devices", lambda: devices)

    lying(*[0] * 8, *[1] * 4)
    with refused(ConfigError, where="config.mesh.num_devices", found=12):
        choose_num_slices(12, None)
    with refused(ConfigError, where="config.mesh.num_slices", found=2):
        choose_num_slices(12, 2)
    assert choose_num_slices(12, 1) == 1
    assert choose_num_slices(12, 3) == 3
    lying(*[0] * 4, *[1] * 4)
    assert choose_num_slices(8, None) == 2
    assert choose_num_slices(8, 4) == 4


@pytest.mark.parametrize("num_slices", [1, 2])
@pytest.mark.parametrize(
    ("dtype", "asked"),
    [
        ("uint8", [11, 0, 5, 5, 3, 7, 2, 0]),
        ("int32", [3] * 8),  # all of one device, in several rounds
        ("float32", [0, 1, 11, 10, 2, 0, 1, 2]),
    ],
)
def test_rows_of_an_array_in_parts_are_those_that_were_asked_for(num_slices, dtype, asked):
    mesh = make_mesh(4, num_slices=num_slices)
    rows = np.arange(12 * 2 * 3).reshape(12, 2, 3).astype(dtype)
    asked = np.asarray(asked, np.int32)
    held = mesh.put(rows, mesh.sharded)
    assert held.addressable_shards[0].data.shape == (3, 2, 3)
    positions = jax.device_put(asked, mesh.sharded)
    found = jax.jit(mesh.take)(held, positions)
    assert found.dtype == rows.dtype
    assert found.sharding.shard_shape(found.shape) == (2, 2, 3)
    np.testing.assert_array_equal(found, rows[asked])
    labels = jax.jit(mesh.take)(mesh.put(rows[:, 0, 0], mesh.sharded), positions)
    np.testing.assert_array_equal(labels, rows[asked, 0, 0])


def test_what_rows_in_parts_need_does_not_grow_with_the_number_of_devices():
    """Of 128 images a device; a batch is twice the share of one of two, and four times."""
    images = (64, 64, 3)
    share = 128 * math.prod(images)
    for number in (2, 4):
        mesh = make_mesh(number)
        array, positions = (
            jax.ShapeDtypeStruct((128 * number, *shape), dtype, sharding=mesh.sharded)
            for shape, dtype in ((images, jnp.uint8), ((), jnp.int32))
        )
        compiled = jax.jit(mesh.take).lower(array, positions).compile()
        exchanged = collectives_in(compiled.as_text() or "")
        assert exchanged["all-to-all"].count == 1
        assert share < exchanged["all-to-all"].num_bytes < 1.5 * share
        memory = compiled.memory_analysis()
        assert memory is not None
        assert memory.temp_size_in_bytes < 4 * share
