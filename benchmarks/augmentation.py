"""Microseconds per image of every random change and every recipe, inside a compiled program.

Each is called once from Python (alone) and many times by a compiled loop, as the training loop
does; both with the batch split over one device per core. Colours and photographs at 32x32x3,
strokes at 28x28x1. Rounds take turns, so that a slow minute of the machine hits all.

  python benchmarks/augmentation.py --rounds=9 --batch_size=128
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from cnn_lab.cli import runtime

NUM_STEPS = 40  # of the compiled loop, and calls of a round alone


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--only", default="", help="part of the names to run")
    arguments = parser.parse_args()
    runtime.start(None)
    sides = {
        name: prepared(augmentation, arguments.batch_size, shape)
        for name, (augmentation, shape) in cases().items()
        if arguments.only in name
    }
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(arguments.rounds):
        for name, calls in sides.items():
            for way, call in calls.items():
                begun = time.perf_counter()
                call()
                taken = (time.perf_counter() - begun) / NUM_STEPS / arguments.batch_size
                seconds.setdefault((name, way), []).append(taken * 1e6)
    print("microseconds per image: median (min, max)")
    print(f"{'change':<26}{'alone':>24}{'in a loop':>24}")
    for name in sides:
        texts = [told(seconds[name, way]) for way in ("alone", "in a loop")]
        print(f"{name:<26}{texts[0]:>24}{texts[1]:>24}")
    print(f"batches of {arguments.batch_size}, {arguments.rounds} rounds, {os.cpu_count()} cores")


def told(values: list[float]) -> str:
    """Median and extremes in words."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}, {max(values):.2f})"


def cases() -> dict[str, tuple[Any, tuple[int, int, int]]]:
    """What is measured: name -> (augmentation, image shape)."""
    from cnn_lab.data.augment.recipes import RECIPES, Augmentation

    single: dict[str, dict[str, Any]] = {
        "none": {},
        "flip": {"flip": 0.5},
        "shift": {"shift": 4},
        "crop": {"crop_area": (0.3, 1.0)},
        "rotation": {"rotation": 15.0},
        "elastic": {"elastic_alpha": 34.0},
        "brightness": {"brightness": 0.4},
        "contrast": {"contrast": 0.4},
        "saturation": {"saturation": 0.4},
        "hue": {"hue": 0.1},
        "grayscale": {"grayscale": 0.2},
        "erasing": {"erasing": 0.5},
        "mixup": {"mixup": 0.2},
        "cutmix": {"cutmix": 1.0},
        "randaugment": {"randaugment_ops": 2},
    }
    colours: dict[str, Any] = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}
    several: dict[str, dict[str, Any]] = {
        "flip+shift": {"flip": 0.5, "shift": 4},
        "flip+crop+rotate+colour": {"flip": 0.5, "crop_area": (0.3, 1.0), "rotation": 15.0}
        | colours,
        "the same+hue": {"flip": 0.5, "crop_area": (0.3, 1.0), "rotation": 15.0, "hue": 0.1}
        | colours,
    }
    found: dict[str, tuple[Any, tuple[int, int, int]]] = {
        name: (Augmentation(**options), (32, 32, 3)) for name, options in (single | several).items()
    }
    affine: dict[str, Any] = {"rotation": 15.0, "scale": 0.15, "shear": 15.0, "translate": 2.0}
    found["affine 28x28x1"] = (Augmentation(**affine), (28, 28, 1))
    found["elastic+affine 28x28x1"] = (Augmentation(**affine, elastic_alpha=34.0), (28, 28, 1))
    for recipe, strengths in RECIPES.items():
        shape = (28, 28, 1) if recipe == "strokes" else (32, 32, 3)
        for strength in ("light", "heavy"):
            found[f"{recipe} {strength}"] = (strengths[strength], shape)
    return found


def prepared(
    augmentation: Any, batch_size: int, shape: tuple[int, int, int]
) -> dict[str, Callable[[], None]]:
    """Compiles an augmentation both ways; each call runs it `NUM_STEPS` times."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    from cnn_lab.data.augment.compose import make_augment
    from cnn_lab.distributed.mesh import BATCH_AXES, choose_num_devices, make_mesh

    augment = make_augment(augmentation, shape, 10)
    mesh = make_mesh(choose_num_devices(batch_size, None))
    split, everywhere = NamedSharding(mesh.device_grid, PartitionSpec(BATCH_AXES)), mesh.replicated
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (batch_size, *shape), dtype=np.uint8)
    labels = random.integers(0, 10, batch_size).astype(np.int32)
    arguments = (
        jax.device_put(jax.random.key(0), everywhere),
        jax.device_put(images, split),
        jax.device_put(labels, split),
    )

    def many(key, images, labels, num_steps):
        shapes = jax.eval_shape(augment, key, images, labels)
        start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

        def step(number, _):
            return augment(jax.random.fold_in(key, number), images, labels)

        return jax.lax.fori_loop(0, num_steps, step, start)

    inputs = (everywhere, split, split)
    alone = jax.jit(augment, in_shardings=inputs, out_shardings=split)
    looped = jax.jit(many, in_shardings=(*inputs, everywhere), out_shardings=split)
    num_steps = jax.device_put(jnp.int32(NUM_STEPS), everywhere)

    def run_alone() -> None:
        jax.block_until_ready([alone(*arguments) for _ in range(NUM_STEPS)])

    def run_looped() -> None:
        jax.block_until_ready(looped(*arguments, num_steps))

    for call in (run_alone, run_looped):
        call()  # compiles
    return {"alone": run_alone, "in a loop": run_looped}


if __name__ == "__main__":
    main()
