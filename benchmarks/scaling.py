"""Throughput, memory and traffic by number of devices and processes, at the same total work.

python benchmarks/scaling.py
python benchmarks/scaling.py --model=resnet18 --size=64 --batch=64 --rounds=3

On a CPU the devices are virtual and share its cores, so that more of them do not make a step
faster: what it shows there is what sharing costs. Figures are in BUILD_NOTES.md.
"""

import argparse
import importlib.util
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

DEVICES = (1, 2, 4)
STEPS = 8  # a call
PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
MIB = 2**20


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="resnet20", help="of cnn-lab list models; resnet20")
    parser.add_argument("--size", type=int, default=32, help="of the images, in pixels; 32")
    parser.add_argument("--batch", type=int, default=128, help="of all devices together; 128")
    parser.add_argument("--rounds", type=int, default=5, help=f"of {STEPS} steps, in turns; 5")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    from cnn_lab.core.errors import ConfigError, lookup
    from cnn_lab.models.registry import MODELS

    try:
        lookup(MODELS, arguments.model, "model")
    except ConfigError as error:
        parser.error(str(error))
    if arguments.worker:
        worker(arguments)
        return
    together = two_processes(arguments)  # before this one takes the devices
    import jax

    jax.config.update("jax_num_cpu_devices", max(DEVICES))
    from cnn_lab.distributed.mesh import make_mesh

    layouts = {
        f"{number}, {'in parts' if shards else 'whole'}": make_mesh(number, shards_state=shards)
        for number in DEVICES
        if number <= jax.device_count()
        for shards in ((False,) if number == 1 else (False, True))
    }
    show(arguments, interleaved(arguments, layouts) + together)


def interleaved(arguments: argparse.Namespace, layouts: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a layout; the rounds of all take turns."""
    sides = {}
    for name, mesh in layouts.items():
        progress(arguments, f"compiling for {name}")
        sides[name] = Side(arguments, mesh)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(arguments.rounds):
        progress(arguments, f"round {number + 1} of {arguments.rounds}")
        for name, side in sides.items():
            times[name].append(side.seconds_a_step())
    return [{"name": name, "seconds": times[name], **side.facts()} for name, side in sides.items()]


class Side:
    """A training of a model on synthetic images, on some devices."""

    def __init__(self, arguments: argparse.Namespace, mesh: Any):
        import jax
        import numpy as np
        import optax

        from cnn_lab.data.loaders.in_memory import InMemoryLoader
        from cnn_lab.data.normalize import Preprocess
        from cnn_lab.data.sampler import Sampler
        from cnn_lab.models.registry import MODELS
        from cnn_lab.optim.optimizers import OPTIMIZERS
        from cnn_lab.tasks.classification import classification
        from cnn_lab.training.state import make_init
        from cnn_lab.training.step import make_train_step
        from cnn_lab.training.stepper import compile_train

        shape = (arguments.size, arguments.size, 3)
        number = arguments.batch * STEPS
        random = np.random.default_rng(0)
        preprocess = Preprocess((0.5,) * 3, (0.25,) * 3)
        images = {
            "image": random.integers(0, 256, (number, *shape), np.uint8),
            "label": random.integers(0, 10, number, np.int32),
        }
        device_arrays = mesh.put({**images, "constants": preprocess.constants})
        order = Sampler(np.arange(number), arguments.batch, 0)
        self._loader = InMemoryLoader(device_arrays, preprocess, order, STEPS, shard=mesh.shard)
        model, task = MODELS[arguments.model].make(10), classification("cross_entropy")
        optimizer = OPTIMIZERS["adamw"].make(optax.constant_schedule(1e-3))
        init = make_init(model, optimizer, shape)
        shapes = jax.eval_shape(init, jax.random.key(0))
        program = compile_train(
            make_train_step(model, task, optimizer),
            self._loader.prepare,
            mesh,
            mesh.with_shardings(shapes),
            device_arrays,
            self._loader.raw_shapes(),
        )
        self._mesh, self._program, self._step = mesh, program, 0
        self._state_bytes = mesh.bytes_of(shapes)
        self._state = jax.jit(init, out_shardings=mesh.shardings(shapes))(jax.random.key(0))
        self.seconds_a_step()  # the first call warms up

    def seconds_a_step(self) -> float:
        """Of one call."""
        import jax
        import numpy as np

        from cnn_lab.distributed.processes import Consensus

        mesh, start = self._mesh, time.perf_counter()
        raw_batches = mesh.put(self._loader.load(self._step, STEPS), mesh.batches)
        scalars = mesh.put((np.int32(self._step), np.int32(STEPS)))
        votes = Consensus(mesh, lambda: False).vote(1)
        self._state, history, _ = self._program.call(
            self._state, self._loader.device_arrays, raw_batches, *scalars, votes
        )
        jax.block_until_ready(history)
        self._step += STEPS
        return (time.perf_counter() - start) / STEPS

    def facts(self) -> dict[str, Any]:
        """Bytes on each device, and what a step exchanges."""
        from cnn_lab.analysis.cost import collectives_in

        found = collectives_in(self._program.text)
        return {
            "state": self._state_bytes,
            "scratch": self._program.temporary_bytes,
            "exchanges": {kind: [e.count, e.num_bytes] for kind, e in found.items()},
        }


def two_processes(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for two processes of two devices each, by themselves; none where GPUs are too few."""
    own_devices = [{"JAX_NUM_CPU_DEVICES": "2"}] * 2
    if os.environ.get("JAX_PLATFORMS") != "cpu" and any(map(importlib.util.find_spec, PLUGINS)):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
        numbers = [str(number) for number in range(len(listed.stdout.splitlines()))]
        numbers = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(numbers)).split(",")
        if len(numbers) < 4:
            sys.stderr.write("fewer than 4 GPUs: left out two processes of 2 each\n")
            return []
        own_devices = [{"CUDA_VISIBLE_DEVICES": ",".join(n)} for n in (numbers[:2], numbers[2:4])]
    with socket.create_server(("", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
    own = [f"--{n}={getattr(arguments, n)}" for n in ("model", "size", "batch", "rounds")]
    started = [
        subprocess.Popen(
            [sys.executable, __file__, *own, f"--worker={index},{address}"],
            env={**os.environ, **own_devices[index]},
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    said = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        sys.exit("a process of the two failed")
    return [json.loads(said[0].splitlines()[-1])]


def worker(arguments: argparse.Namespace) -> None:
    """One of the two processes."""
    index, _, address = arguments.worker.partition(",")
    from cnn_lab.distributed.initialize import join
    from cnn_lab.distributed.mesh import make_mesh

    processes = join(address, 2, int(index), wait_seconds=120)
    (row,) = interleaved(arguments, {"2 processes x 2, whole": make_mesh(4)})
    if processes.is_primary:
        sys.stdout.write(json.dumps(row) + "\n")
    processes.leave()


def progress(arguments: argparse.Namespace, text: str) -> None:
    """A line on standard error, of one process only."""
    if not arguments.worker or arguments.worker.startswith("0,"):
        sys.stderr.write(text + "\n")


def show(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Prints the table."""
    import jax

    kind = jax.devices()[0].device_kind
    print(
        f"{arguments.model}, {arguments.size} pixels, batches of {arguments.batch} in all, AdamW; "
        f"{kind}, {os.cpu_count()} cores, jax {jax.__version__}; median of {arguments.rounds} "
        f"calls of {STEPS} steps (least to most)"
    )
    print("| devices, state | ms a step | images/s | state, MiB a device | scratch | exchanges |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        middle = statistics.median(row["seconds"])
        least, most = (1e3 * f(row["seconds"]) for f in (min, max))
        listed = ", ".join(
            f"{count} {kind} ({size / MIB:.2f} MiB)"
            for kind, (count, size) in row["exchanges"].items()
        )
        print(
            f"| {row['name']} | {1e3 * middle:.1f} ({least:.1f} to {most:.1f}) | "
            f"{arguments.batch / middle:,.0f} | {row['state'] / MIB:.2f} | "
            f"{row['scratch'] / MIB:.1f} | {listed or 'none'} |"
        )


if __name__ == "__main__":
    main()
