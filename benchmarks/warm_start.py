"""Seconds from typing `cnn-lab train` to the first training step, and peak memory.

The first start of each experiment fills an empty compilation cache (cold), the others use it
(warm). The run is stopped after its first metric row.

  python benchmarks/warm_start.py --rounds=5
"""

import argparse
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ("experiments/digits/lenet5.py", "experiments/mnist/lenet5.py")


def main() -> None:
    """Prints one line per experiment."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(f"{'experiment':<32}{'cold s':>8}{'warm median s':>15}{'min':>7}{'max':>7}")
    for experiment in EXPERIMENTS:
        with tempfile.TemporaryDirectory() as folder:
            seconds = [start(experiment, Path(folder), n) for n in range(rounds + 1)]
        cold, *warm = seconds
        print(
            f"{experiment:<32}{cold:>8.2f}{statistics.median(warm):>15.2f}"
            f"{min(warm):>7.2f}{max(warm):>7.2f}"
        )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"largest peak memory of these runs: {peak:.0f} MiB")


def start(experiment: str, folder: Path, number: int) -> float:
    """Starts a run, waits for its first row, stops it; returns the seconds in between."""
    workdir = folder / f"run{number}"
    command = [sys.executable, "-m", "cnn_lab.cli.main", "train", f"--config={experiment}"]
    command += [f"--workdir={workdir}", "--config.train.log_every_steps=1"]
    command += ["--config.train.max_steps_per_dispatch=1"]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / "xla")}
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    metrics = workdir / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size):
        if process.poll() is not None:
            raise SystemExit(f"{experiment} ended before its first step")
        time.sleep(0.005)
    seconds = time.perf_counter() - begun
    process.send_signal(signal.SIGTERM)
    process.wait()
    return seconds


if __name__ == "__main__":
    main()
