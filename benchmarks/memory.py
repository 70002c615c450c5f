"""Memory and seconds of a training step: as it is, rematerialised, in parts, in bfloat16.

`kept` is what the forward pass keeps for the backward pass of one part of the batch, before the
compiler sees it; `planned` is what the compiled step needs beside its inputs and outputs
(`temp_size_in_bytes`). XLA for CPUs merges what is computed twice, and so undoes rematerialisation;
the second number shows it. Seconds are of rounds that take turns, so that a slow minute of the
machine hits all.

  python benchmarks/memory.py --model=resnet20 --size=32 --batch_size=128 --rounds=5
"""

import argparse
import statistics
import time
from typing import Any

WAYS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "rematerialise": {"rematerialise": True},
    "4 micro-batches": {"num_micro_batches": 4},
    "both": {"rematerialise": True, "num_micro_batches": 4},
    "bfloat16": {"dtype": "bfloat16"},
}


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    import jax

    sides = {}
    for name, options in WAYS.items():
        sides[name] = prepared(arguments.model, arguments.size, arguments.batch_size, **options)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(arguments.rounds):
        for name, (_, _, call) in sides.items():
            begun = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - begun)
    print(f"{arguments.model}, {arguments.batch_size} images of {arguments.size} pixels a step,")
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {arguments.rounds} rounds")
    print(f"{'step':<18}{'MiB kept':>12}{'MiB planned':>13}{'seconds: median (min, max)':>32}")
    for name, (kept, planned, _) in sides.items():
        values = seconds[name]
        text = f"{statistics.median(values):.3f} ({min(values):.3f}, {max(values):.3f})"
        print(f"{name:<18}{kept / 2**20:>12.0f}{planned / 2**20:>13.0f}{text:>32}")


def prepared(
    model_name: str, size: int, batch_size: int, *, dtype: str = "float32", **ways: Any
) -> tuple[int, int, Any]:
    """Compiles a step; returns bytes kept and planned, and a call that runs it once."""
    import jax
    import jax.numpy as jnp
    import optax

    from cnn_lab.models.registry import MODELS
    from cnn_lab.tasks.classification import classification
    from cnn_lab.training.gradient import make_gradient, make_summed_loss
    from cnn_lab.training.state import make_init
    from cnn_lab.training.step import make_train_step

    model = MODELS[model_name].make(10, dtype=dtype)
    task, optimizer = classification("cross_entropy"), optax.sgd(0.01, momentum=0.9)
    state = make_init(model, optimizer, (size, size, 3))(jax.random.key(0))
    batch = {
        "image": jax.random.normal(jax.random.key(1), (batch_size, size, size, 3)),
        "label": jnp.arange(batch_size) % 10,
        "weight": jnp.ones(batch_size),
    }
    step = make_train_step(model, task, optimizer, gradient=make_gradient(model, task, **ways))
    compiled = jax.jit(step).lower(state, batch).compile()
    analysis = compiled.memory_analysis()
    planned = analysis.temp_size_in_bytes if analysis is not None else 0
    jax.block_until_ready(compiled(state, batch))
    loss = make_summed_loss(model, task, rematerialise=ways.get("rematerialise", False))
    num_parts = ways.get("num_micro_batches", 1)
    part = jax.tree.map(lambda values: values[: batch_size // num_parts], batch)
    rest = (state.collections, {}, part, jax.random.key(2))
    backward = jax.eval_shape(
        lambda params: jax.vjp(lambda p: loss(p, *rest)[0], params)[1], state.params
    )
    kept = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward))
    return kept, planned, lambda: jax.block_until_ready(compiled(state, batch))


if __name__ == "__main__":
    main()
