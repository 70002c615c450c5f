"""Seconds per epoch of LeNet-5 on MNIST, against PyTorch on the same cores.

Each side trains with shuffling, dropout, AdamW, a cosine schedule, logging and validation after
every epoch: cnn_lab as `cnn-lab train` does (checkpoints included), PyTorch once from tensors in
memory and once through Dataset and DataLoader. The sides live in processes of their own that take
turns, one epoch each, so that a slow minute of the machine hits all of them.

  make bench            (installs torch into the virtual environment)
  python benchmarks/mnist_epoch.py --rounds=7 --batch_size=128
"""

import argparse
import contextlib
import importlib
import io
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).parents[1]
SIDES = ("cnn_lab", "torch tensors", "torch DataLoader 0", "torch DataLoader 2")


def main() -> None:
    """Runs the rounds and prints a table and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--sides", nargs="*", default=SIDES, choices=SIDES)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    workers = {}
    for side in arguments.sides:
        here, there = context.Pipe()
        process = context.Process(
            target=worker,
            args=(side, there, arguments.rounds + 1, arguments.batch_size),
        )
        process.start()
        workers[side] = here
        print(f"{side}: first epoch {here.recv():.2f} s after its start, compiling included")
    seconds: dict[str, list[float]] = {side: [] for side in workers}
    for _ in range(arguments.rounds):
        for side, pipe in workers.items():
            pipe.send("go")
            seconds[side].append(pipe.recv())
    for pipe in workers.values():
        pipe.send("peak")
    peaks = {side: pipe.recv() for side, pipe in workers.items()}
    first = statistics.median(seconds[arguments.sides[0]])
    print(f"{'side':<20}{'median s':>10}{'min':>8}{'max':>8}{'x first':>8}{'peak MiB':>10}")
    for side, values in seconds.items():
        median = statistics.median(values)
        print(
            f"{side:<20}{median:>10.2f}{min(values):>8.2f}{max(values):>8.2f}"
            f"{median / first:>8.2f}{peaks[side]:>10.0f}"
        )
    print(json.dumps({"seconds": seconds, "peak_mib": peaks}))


def worker(side: str, pipe: Connection, num_epochs: int, batch_size: int) -> None:
    """Trains epoch by epoch, waiting for its turn after each."""
    state = {"start": time.perf_counter()}

    def epoch_done() -> None:
        pipe.send(time.perf_counter() - state["start"])
        if pipe.recv() == "peak":
            pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            sys.exit(0)
        state["start"] = time.perf_counter()

    train = train_cnn_lab if side == "cnn_lab" else train_torch
    train(side, epoch_done, num_epochs, batch_size)


def train_cnn_lab(
    side: str,  # noqa: ARG001 - one signature for all sides
    epoch_done: Callable[[], None],
    num_epochs: int,
    batch_size: int,
) -> None:
    """The real training, with a sink that waits after each validation row."""
    from cnn_lab.cli import runtime
    from cnn_lab.config.load import load_config

    overrides = [("train.num_epochs", str(num_epochs)), ("train.batch_size", str(batch_size))]
    config = load_config(str(ROOT / "experiments/mnist/lenet5.py"), overrides)
    runtime.start(config.mesh.num_devices)
    from cnn_lab.runs.train import run_training

    class Turns:
        def write(self, row) -> None:
            if row["split"] == "validation":
                epoch_done()

        def close(self) -> None:
            pass

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        run_training(config, Path(folder) / "run", lambda _: None, metric_writers=[Turns()])


def train_torch(
    side: str, epoch_done: Callable[[], None], num_epochs: int, batch_size: int
) -> None:
    """The same net, recipe and work per epoch in PyTorch."""
    torch = importlib.import_module("torch")
    from cnn_lab.data.datasets.catalog import open_dataset

    nn, functional = torch.nn, torch.nn.functional
    images, labels = open_dataset("mnist").split("train").read_all()
    images = torch.from_numpy(images.copy()).permute(0, 3, 1, 2).contiguous()
    labels = torch.from_numpy(labels.copy()).long()
    train, held_out = (images[5000:], labels[5000:]), (images[:5000], labels[:5000])
    mean, std = train[0].float().mean() / 255, train[0].float().std() / 255
    net = nn.Sequential(
        *(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Dropout(0.3), nn.Linear(400, 120), nn.ReLU(), nn.Dropout(0.3)),
        *(nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    ).to(memory_format=torch.channels_last)
    kernels = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim == 1]
    groups = [{"params": kernels, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=4e-3)
    steps = -(-len(train[0]) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps * num_epochs)

    def prepare(batch):
        padded = functional.pad(batch, (2, 2, 2, 2)).float() / 255
        return ((padded - mean) / std).contiguous(memory_format=torch.channels_last)

    class Digits(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(train[0])

        def __getitem__(self, index: int):
            padded = functional.pad(train[0][index], (2, 2, 2, 2)).float() / 255
            return (padded - mean) / std, train[1][index]

    def batches():
        if side == "torch tensors":
            order = torch.randperm(len(train[0]))
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                yield prepare(train[0][chosen]), train[1][chosen]
        else:
            yield from loader

    num_workers = int(side.rpartition(" ")[2]) if "DataLoader" in side else 0
    loader = torch.utils.data.DataLoader(
        Digits(),
        batch_size,
        shuffle=True,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        multiprocessing_context="fork" if num_workers else None,
    )
    for _ in range(num_epochs):
        net.train()
        total = correct = 0.0
        for x, y in batches():
            optimizer.zero_grad(set_to_none=True)
            logits = net(x)
            loss = functional.cross_entropy(logits, y)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(y)
            correct += (logits.argmax(1) == y).sum().item()
        net.eval()
        with torch.no_grad():
            parts = zip(held_out[0].split(500), held_out[1].split(500), strict=True)
            right = sum((net(prepare(x)).argmax(1) == y).sum().item() for x, y in parts)
        assert right > 0
        epoch_done()


if __name__ == "__main__":
    main()
