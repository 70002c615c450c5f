"""Images per second of a training step, and the share of the chip's peak, beside PyTorch.

The sides take turns in one process, a number of steps in every round:

  step       cnn_lab's compiled steps on a batch that lies on the device; nothing is moved
  pipeline   the same on uint8 images, altered in the step, fed as `data.loader=auto` would: from
             the device where all of them take up to 2 GiB, else as below
  streaming  the same, every batch put together by Grain and moved to the device; no file is decoded
             (benchmarks/streaming.py measures that)
  torch      PyTorch on a batch that lies on the device: channels_last, autocast, torch.compile

All have the same batch size, cross-entropy, momentum 0.9, and decay 1e-4 of kernels alone. cnn_lab
also computes accuracy, the gradient's norm and whether all is finite. With PyTorch beside it JAX
takes memory only as it needs it. On a CPU cnn_lab shares the batch over virtual devices, as its
commands do; elsewhere one device is measured.

  python benchmarks/throughput.py --model=resnet50 --size=224 --dtype=bfloat16 --batch=256
  python benchmarks/throughput.py --sides=step --profile=trace       (for TensorBoard or Perfetto)
  python benchmarks/throughput.py --model=resnet18 --size=32 --batch=16 --rounds=3 --steps=2

Figures are in BUILD_NOTES.md.
"""

import argparse
import itertools
import json
import os
import re
import statistics
import sys
import time
from typing import Any

SIDES = ("step", "loader", "streaming", "torch")
DTYPES = ("bfloat16", "float16", "float32")
MIB = 2**20
# Dense TFLOP/s of a JAX device in the order of DTYPES, by the first pattern found in its kind.
# Where float32 is asked for, both sides compute in TF32 if there is such a unit, and on TPUs in
# bfloat16. From NVIDIA's data sheets (half of what they give with sparsity) and Ada white paper
# (RTX 4090, accumulating in float32), and cloud.google.com/tpu/docs (a v3 device is half a chip).
PEAKS: dict[str, tuple[float | None, float | None, float | None]] = {
    r"\bMIG\b": (None, None, None),
    r"\bH[12]00 NVL\b": (835, 835, 417),
    r"\bH100 PCIe\b": (756, 756, 378),
    r"\bH[12]00\b": (989.4, 989.4, 494.7),
    r"\bA100\b": (312, 312, 156),
    r"\bV100-PCIE\b": (None, 112, 14),
    r"\bV100-SXM[23]\b": (None, 125, 15.7),
    r"\bT4\b": (None, 65, 8.1),
    r"\bL40S\b": (362, 362, 183),
    r"\bL4\b": (121, 121, 60),
    r"\bRTX 4090$": (165.2, 165.2, 82.6),
    r"^TPU v3$": (61.5, None, 61.5),
    r"^TPU v4$": (275, None, 275),
    r"^TPU v5( lite|e)$": (197, None, 197),
    r"^TPU v5p?$": (459, None, 459),
    r"^TPU v6( lite|e)$": (918, None, 918),
}
MEASURED_SIDE, MEASURED_SIDE_CPU, CALLS, TRIALS = 8192, 2048, 4, 5


def main() -> None:
    """Prints a table, ratios and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--size", type=int, default=224, help="height and width in pixels")
    parser.add_argument("--dtype", default="bfloat16", choices=DTYPES)
    parser.add_argument("--batch", type=int, help="default: 256, on a CPU 16")
    parser.add_argument("--images", type=int, help="of the loaders; default: 8 batches")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="of each side in a round")
    parser.add_argument("--sides", default=",".join(SIDES), help="default: %(default)s")
    parser.add_argument("--profile", metavar="DIR", help="writes a trace of one turn of `step`")
    arguments = parser.parse_args()
    arguments.sides = list(dict.fromkeys(arguments.sides.split(",")))
    if unknown := [name for name in arguments.sides if name not in SIDES]:
        parser.error(f"--sides: there is no {', '.join(unknown)}; known: {', '.join(SIDES)}")
    if arguments.profile and "step" not in arguments.sides:
        parser.error("--profile traces the side `step`; add it to --sides")
    if "torch" in arguments.sides:  # or JAX would take three quarters of a GPU's memory
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from cnn_lab.cli import runtime

    runtime.start(None)
    import jax

    jax.config.update("jax_compilation_cache_dir", None)  # what compiling costs is shown
    from cnn_lab.core.errors import CnnLabError

    try:
        run(arguments)
    except CnnLabError as error:
        sys.exit(f"Error: {error}")


def run(arguments: argparse.Namespace) -> None:
    """Builds the sides, lets them take turns and says what they did."""
    import jax
    from throughput_sides import LeftOut, Side, Torch

    from cnn_lab.analysis.cost import cost_of
    from cnn_lab.config.values import check_options
    from cnn_lab.core.errors import ConfigError, lookup
    from cnn_lab.distributed.mesh import choose_num_devices, make_mesh
    from cnn_lab.models.registry import MODELS

    entry, on_cpu = lookup(MODELS, arguments.model, "model"), jax.default_backend() == "cpu"
    if entry.outputs != "logits":
        raise ConfigError(f"{arguments.model} returns {entry.outputs}; take one that classifies.")
    arguments.batch = arguments.batch or (16 if on_cpu else 256)
    arguments.images = max(arguments.images or 8 * arguments.batch, arguments.batch)
    arguments.shape = (arguments.size, arguments.size, entry.image_shape[2])
    arguments.num_classes = entry.num_classes
    arguments.recipe = "cifar" if arguments.size <= 64 else "photos"
    options = {} if arguments.dtype == "float32" else {"dtype": arguments.dtype}
    model = entry.make(entry.num_classes, **check_options(entry.make, options, "--dtype"))
    mesh = make_mesh(choose_num_devices(arguments.batch, None) if on_cpu else 1)
    macs = cost_of(model, arguments.shape, train=True).macs
    sides: dict[str, Any] = {}
    for name in arguments.sides:
        known = next((side.num_parameters for side in sides.values()), None)
        try:
            if name == "torch":
                sides[name] = Torch(arguments, known)
            else:
                sides[name] = Side(name, arguments, model, mesh)
        except LeftOut as reason:
            print(f"{name} is left out: {reason}", flush=True)
            continue
        print(f"{name}: ready after {sides[name].ready_seconds:.1f} s", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(arguments.rounds):
        for name, side in sides.items():
            seconds[name].append(side.turn())
    show(arguments, mesh, macs, sides, seconds)
    if arguments.profile:
        with jax.profiler.trace(arguments.profile, create_perfetto_trace=True):
            sides["step"].turn()
        print(f"A trace of {arguments.steps} steps is in {arguments.profile}.")
    for side in sides.values():
        side.close()


def show(
    arguments: argparse.Namespace,
    mesh: Any,
    macs: int,
    sides: dict[str, Any],
    seconds: dict[str, list[float]],
) -> None:
    """Prints what was measured."""
    import jax

    from cnn_lab.analysis.cost import TRAINING_PASSES
    from cnn_lab.workdir.run_dir import versions

    images, device = arguments.batch * arguments.steps, jax.devices()[0]
    peak, said = peak_of(device.device_kind, arguments.dtype, mesh)
    flops = 2 * TRAINING_PASSES * macs
    packages = ", ".join(map(" ".join, versions(("jax", "jaxlib", "torch")).items()))
    print(
        f"\n{arguments.model}, {arguments.size} pixels, {arguments.dtype}, batches of "
        f"{arguments.batch}, SGD with momentum; {mesh.num_devices} x {device.device_kind}, "
        f"{os.cpu_count()} cores; {packages}; median of {arguments.rounds} rounds of "
        f"{arguments.steps} steps (least to most)\n"
    )
    print("| side | images/s | ms a step | share of peak | compile, s | memory, MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, side in sides.items():
        rates = [images / value for value in seconds[name]]
        middle = statistics.median(rates)
        memory = "?" if side.num_bytes is None else f"{side.num_bytes / MIB:,.0f}"
        print(
            f"| {side.title} | {spread(rates, ',.1f')} | {1e3 * arguments.batch / middle:,.2f} | "
            f"{middle * flops / peak:.1%} | {side.compile_seconds:.1f} | {memory} |"
        )
    print(
        f"\nA step takes {flops / 1e9:.3g} GFLOP an image, {TRAINING_PASSES} passes of "
        f"{macs / 1e9:.3g} G multiply-adds; the peak is {peak / 1e12:.4g} TFLOP/s, {said}."
    )
    counted = [f"{side.flops / 1e9:.3g} ({name})" for name, side in sides.items() if side.flops]
    if counted:
        print(f"XLA counts in the compiled programs, in GFLOP an image: {', '.join(counted)}.")
    if "loader" in sides or "streaming" in sides:
        print(f"The loaders feed {arguments.images:,} images; {arguments.recipe}, light.")
    print(
        "compile: for torch until two steps had ended. memory: for cnn_lab what the compiler "
        "plans, data included; for torch the most it has used (not known on a CPU)."
    )
    used = (device.memory_stats() or {}).get("peak_bytes_in_use")
    if used is not None:
        print(f"JAX used at most {used / MIB:,.0f} MiB of the device, with all of its sides there.")
    for one, other in itertools.combinations(seconds, 2):
        ratios = [b / a for a, b in zip(seconds[one], seconds[other], strict=True)]
        print(f"{one} / {other}, images/s of each round: {spread(ratios, '.3f')}")
    print(json.dumps({name: [images / value for value in seconds[name]] for name in sides}))


def spread(values: list[float], form: str) -> str:
    """The median, least and largest."""
    middle, least, most = (format(f(values), form) for f in (statistics.median, min, max))
    return f"{middle} ({least} to {most})"


def peak_of(kind: str, dtype: str, mesh: Any) -> tuple[float, str]:
    """FLOP/s of the devices of a layout, and where the number comes from."""
    found = next((peaks for pattern, peaks in PEAKS.items() if re.search(pattern, kind)), None)
    published = None if found is None else found[DTYPES.index(dtype)]
    if published is not None:
        unit = "float32 (on TF32 units where there are any)" if dtype == "float32" else dtype
        return published * 1e12 * mesh.num_devices, f"as published for {unit}"
    import jax

    side = MEASURED_SIDE_CPU if jax.default_backend() == "cpu" else MEASURED_SIDE
    draw = jax.jit(lambda key: jax.random.normal(key, (side, side), dtype))
    rows, columns = (jax.device_get(draw(jax.random.key(seed))) for seed in (0, 1))
    rows, columns = mesh.put(rows, mesh.sharded), mesh.put(columns)
    multiply = jax.jit(lambda a, b: a @ b, out_shardings=mesh.sharded)

    def seconds() -> float:
        start = time.perf_counter()
        jax.block_until_ready([multiply(rows, columns) for _ in range(CALLS)])
        return (time.perf_counter() - start) / CALLS

    seconds()  # compiles
    best = min(seconds() for _ in range(TRIALS))
    said = f"measured: a product of two {dtype} matrices of {side} x {side}, the best of {TRIALS}"
    return 2 * side**3 / best, said


if __name__ == "__main__":
    main()
