"""Step time against number of chips, on paper: what is computed, what is exchanged, what is read.

python benchmarks/scaling_model.py
python benchmarks/scaling_model.py --images_per_second=6000 --per_device

The exchanges are counted in the step that XLA compiles for four virtual CPU devices; how fast chips
and links are is written below, with its source. Nothing is timed here: once a chip's rate has been
measured (benchmarks/throughput.py), give it as --images_per_second.
"""

import argparse
import dataclasses
import math
import sys

CHIPS = (1, 8, 32, 128, 512, 2048)
DECODED = 300  # JPEGs a second and core: 500x375 cropped to 224 pixels (benchmarks/streaming.py)
# Passes over the output of each convolution in a step, with normalisation and ReLU fused: forward
# it is written, read for its mean and for the deviation from it, read and written normalised, and
# read by the next layer; backward nine more (the two sums of normalisation, its gradient, and both
# gradients of the convolution).
PASSES = 15
# 8 H100 reached 75.9 % in 13.5 minutes in MLPerf Training 3.0 (entry 3.0-2053). At 36 epochs of
# 1,281,167 images these are 7,100 images a second and chip: of what memory allows, this share. That
# is with a vendor's kernels, evaluations and exchanges included, and not known of XLA: a slower
# chip hides more of what is exchanged.
SHARE_OF_FLOOR = 0.7
LAUNCHES, LAUNCH_SECONDS = 500, 5e-6  # kernels of a step, which no batch is too small for


@dataclasses.dataclass(frozen=True)
class Machine:
    """Chips and what lies between them.

    Attributes:
        name: of it.
        memory: bytes a second of a chip's own memory (vendor's data sheet).
        together: chips that the inner link joins.
        inner: bytes a second and direction of a chip on it.
        inner_latency: seconds of an all-reduce of a few bytes between neighbours there.
        hop: seconds that each further hop adds, of a ring along the side of a square; none where a
            switch joins all.
        outer: bytes a second and direction of all of these chips, to others like them.
        outer_latency: seconds of a message there.
    """

    name: str
    memory: float
    together: int
    inner: float
    inner_latency: float
    hop: float
    outer: float
    outer_latency: float

    def all_reduce(self, num_bytes: float, chips: int) -> float:
        """Seconds: on the inner links, then on the outer ones, each of which moves all bytes."""
        inside, hosts = min(chips, self.together), math.ceil(chips / self.together)
        seconds = 0.0
        if inside > 1:
            seconds += 2 * (inside - 1) / inside * num_bytes / self.inner
            seconds += self.inner_latency + 2 * (math.sqrt(inside) - 1) * self.hop
        if hosts > 1:
            seconds += 2 * (hosts - 1) / hosts * num_bytes / self.outer
            seconds += 2 * math.log2(hosts) * self.outer_latency
        return seconds


# Latencies are rules of thumb, not measurements.
MACHINES = (
    Machine("H100, NVLink, InfiniBand 8 x 400 Gb/s", 3.35e12, 8, 450e9, 15e-6, 0, 400e9, 5e-6),
    Machine("H100, NVLink, Ethernet 100 Gb/s a host", 3.35e12, 8, 450e9, 15e-6, 0, 12.5e9, 30e-6),
    Machine("TPU v5e, slices of 256 on ICI", 0.82e12, 256, 100e9, 5e-6, 1e-6, 400e9, 50e-6),
)


@dataclasses.dataclass(frozen=True)
class Work:
    """What a step does, wherever it runs.

    Attributes:
        bytes_per_image: read and written in the chip's memory.
        exchanges: of statistics, one after the other.
        gradient_bytes: exchanged once, after the backward pass.
    """

    bytes_per_image: float
    exchanges: int
    gradient_bytes: float


def work_of(name: str, size: int, per_device: bool) -> Work:
    """Counts it."""
    import jax

    jax.config.update("jax_num_cpu_devices", 4)
    from scaling import Side

    from cnn_lab.analysis.cost import cost_of
    from cnn_lab.distributed.mesh import make_mesh
    from cnn_lab.models.registry import MODELS

    cost = cost_of(MODELS[name].make(1000), (size, size, 3))
    outputs = sum(
        math.prod(layer.output_shape or ()) for layer in cost.layers if "Conv" in layer.kind
    )
    small = argparse.Namespace(model=name, size=32, batch=4)  # size and batch change no exchange
    found = Side(small, make_mesh(4)).facts()["exchanges"]
    statistics = found["all-reduce"][0] - 1
    gradient_bytes = 4 * cost.num_parameters
    return Work(2.0 * PASSES * outputs, 0 if per_device else statistics, gradient_bytes)


def seconds(
    work: Work, machine: Machine, chips: int, batch: int, rate: float | None
) -> list[float]:
    """Of computing, of statistics and of gradients, in a step of `batch` images a chip."""
    rate = rate or SHARE_OF_FLOOR * machine.memory / work.bytes_per_image
    compute = max(batch / rate, LAUNCHES * LAUNCH_SECONDS)
    few = work.exchanges * machine.all_reduce(1024, chips)
    return [compute, few, machine.all_reduce(work.gradient_bytes, chips)]


def main() -> None:
    """Prints a table a machine."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="resnet50", help="of cnn-lab list models; resnet50")
    parser.add_argument("--size", type=int, default=224, help="of the images, in pixels; 224")
    parser.add_argument("--batch", type=int, default=256, help="of a chip; 256")
    parser.add_argument("--whole_batch", type=int, default=8192, help="of all chips together; 8192")
    parser.add_argument("--images_per_second", type=float, help="of a chip, as measured")
    parser.add_argument("--per_device", action="store_true", help="statistics of each chip's share")
    given = parser.parse_args()
    from cnn_lab.core.errors import ConfigError, lookup
    from cnn_lab.models.registry import MODELS

    try:
        lookup(MODELS, given.model, "model")
    except ConfigError as error:
        parser.error(str(error))
    sys.stderr.write("counting exchanges in a compiled step, which takes a minute\n")
    work = work_of(given.model, given.size, given.per_device)
    print(
        f"{given.model}, {given.size} pixels: {work.bytes_per_image / 1e6:.0f} MB of memory "
        f"traffic an image in bfloat16, {work.exchanges} exchanges of statistics a step, "
        f"{work.gradient_bytes / 1e6:.0f} MB of gradients"
    )
    for machine in MACHINES:
        print(f"\n{machine.name}")
        print(
            f"| chips | ms a step of {given.batch} a chip: compute, statistics, gradients | of the "
            f"rate alone | cores to decode, a chip | with {given.whole_batch:,} images in all |"
        )
        print("| --- | --- | --- | --- | --- |")
        for chips in CHIPS:
            parts = seconds(work, machine, chips, given.batch, given.images_per_second)
            rate = given.batch / sum(parts)
            alone = given.batch / parts[0]
            own = max(1, given.whole_batch // chips)
            fixed = own / sum(seconds(work, machine, chips, own, given.images_per_second))
            shown = ", ".join(f"{1e3 * part:.1f}" for part in parts)
            print(
                f"| {chips} | {1e3 * sum(parts):.1f}: {shown} | {rate / alone:.0%} | "
                f"{rate / DECODED:.0f} | {fixed / alone:.0%} of {own} a chip |"
            )


if __name__ == "__main__":
    main()
