"""Exchanges between devices, counted in a compiled program."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from cnn_lab.analysis.cost import Collective, collectives_in
from cnn_lab.distributed.mesh import BATCH_AXES, make_mesh


def compiled(function, *shapes: tuple[int, ...]) -> str:
    mesh = make_mesh(4)
    rows = PartitionSpec(BATCH_AXES)
    spread = jax.shard_map(
        function, mesh=mesh.device_grid, in_specs=rows, out_specs=rows, check_vma=False
    )
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=mesh.sharded) for shape in shapes]
    text = jax.jit(spread).lower(*arrays).compile().as_text()
    assert text is not None
    return text


def test_each_kind_is_found_with_the_bytes_of_its_result():
    def all_kinds(x):
        whole = jax.lax.all_gather(x, BATCH_AXES, tiled=True)  # [8 6]
        summed = jax.lax.psum(x, BATCH_AXES)  # [2 6]
        part = jax.lax.psum_scatter(whole * 2, BATCH_AXES, scatter_dimension=0, tiled=True)
        return summed + part + whole[:2]

    found = collectives_in(compiled(all_kinds, (8, 6)))
    assert found["all-gather"] == Collective(1, 8 * 6 * 4)
    assert found["all-reduce"].num_bytes + found.get("reduce-scatter", Collective()).num_bytes > 0
    assert "all-to-all" not in found


def test_several_arrays_at_once_are_one_exchange():
    def sums(x, y):
        return jax.lax.psum((x, y), BATCH_AXES)

    found = collectives_in(compiled(sums, (4, 6), (4, 3)))
    assert found == {"all-reduce": Collective(1, (6 + 3) * 4)}


def test_programs_of_accelerators_name_the_operands_too():
    text = """
      %a = (f32[2,6]{1,0}, f32[8,6]{1,0}) all-gather-start(%x), channel_id=1
      %b = bf16[16]{0} all-reduce-start(%y), channel_id=2
      %c = pred[3]{0} all-to-all(%z)
      %d = f32[8,6]{1,0} all-gather-done(%a)
      %e = (f32[1024]{0}, f32[1024]{0}, u32[], u32[]) collective-permute-start(f32[1024]{0} %p)
    """
    assert collectives_in(text) == {
        "all-gather": Collective(1, 8 * 6 * 4),
        "all-reduce": Collective(1, 32),
        "all-to-all": Collective(1, 3),
        "collective-permute": Collective(1, 4096),
    }
