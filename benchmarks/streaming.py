"""Images per second that are decoded and randomly cropped, against PyTorch's DataLoader.

Photographs of 500 x 375 pixels are written to a temporary folder: noise that is smooth as nature
is (amplitudes fall with frequency), as JPEG of quality 90, some 85 KB each. Both sides decode them
with the same PIL, crop 8 to 100 % of the area at aspects 3/4 to 4/3, resize to 224 pixels, and give
uint8 batches, which the reader copies once, as a transfer to a device does. PyTorch reads the files
as ImageFolder does and crops by torchvision's RandomResizedCrop, or without it by the same calls of
PIL, written out below; cnn_lab reads them as it prepares them, by `StreamingLoader`.

The sides live in processes of their own, which take turns: each first throws away what was read
ahead during the others' turns, then is timed in full swing, then waits until its readers rest.

  python benchmarks/streaming.py --rounds=9 --batch_size=64      (torch must be installed)
"""

import argparse
import importlib
import importlib.util
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

AREA, ASPECT, SIZE = (0.08, 1.0), (3 / 4, 4 / 3), (224, 224)
WIDTH, HEIGHT, QUALITY = 500, 375, 90
WORKERS = (0, 1, 2)
SIDES = tuple(f"{name} {count}" for count in WORKERS for name in ("cnn_lab", "torch"))
READ_AHEAD = 12  # batches, more than either side keeps
REST_S = 2.5


def main() -> None:
    """Runs the rounds and prints a table and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--num_batches", type=int, default=16, help="timed in each turn")
    parser.add_argument("--num_images", type=int, default=256)
    parser.add_argument("--sides", nargs="*", default=SIDES, choices=SIDES)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        num_bytes = write_photographs(Path(folder) / "photographs", arguments.num_images)
        print(f"{arguments.num_images} photographs of {num_bytes / 1e3:.0f} KB on average")
        rates = take_turns(arguments, folder)
    batch, cores = arguments.batch_size, len(os.sched_getaffinity(0))
    print(f"images per second, {arguments.rounds} rounds, batches of {batch}, {cores} cores")
    print(f"{'side':<12}{'median':>9}{'min':>9}{'max':>9}")
    for side, values in rates.items():
        print(f"{side:<12}{statistics.median(values):>9.0f}{min(values):>9.0f}{max(values):>9.0f}")
    for count in WORKERS:
        ours, theirs = rates.get(f"cnn_lab {count}"), rates.get(f"torch {count}")
        if ours and theirs:
            ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
            text = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            print(f"cnn_lab / torch, {count} workers, of each round: {text}")
    print(json.dumps(rates))


def take_turns(arguments: argparse.Namespace, folder: str) -> dict[str, list[float]]:
    """Images per second of each side in each round."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for side in arguments.sides:
        here, there = context.Pipe()
        # Not daemonic: both sides have processes of their own.
        context.Process(
            target=work,
            args=(side, there, folder, arguments.batch_size, arguments.num_batches),
        ).start()
        pipes[side] = here
        print(f"{side}: first batch {here.recv():.1f} s after its readers were made", flush=True)
    rates: dict[str, list[float]] = {side: [] for side in pipes}
    for _ in range(arguments.rounds):
        for side, pipe in pipes.items():
            pipe.send("go")
            rates[side].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send("end")
    return rates


def work(side: str, pipe: Connection, folder: str, batch_size: int, num_batches: int) -> None:
    """Reads batches whenever it is this side's turn."""
    name, _, count = side.partition(" ")
    make = {"cnn_lab": batches_of_cnn_lab, "torch": batches_of_torch}[name]
    batches, close = make(Path(folder), batch_size, int(count))
    held = np.empty((batch_size, *SIZE, 3), np.uint8)
    begun = time.perf_counter()
    np.copyto(held, next(batches))
    first = time.perf_counter() - begun
    assert held.std() > 20
    time.sleep(REST_S)
    pipe.send(first)
    while pipe.recv() == "go":
        for _ in range(READ_AHEAD):
            np.copyto(held, next(batches))
        begun = time.perf_counter()
        for _ in range(num_batches):
            np.copyto(held, next(batches))
        seconds = time.perf_counter() - begun
        time.sleep(REST_S)
        pipe.send(num_batches * batch_size / seconds)
    close()
    sys.exit(0)


def batches_of_cnn_lab(
    folder: Path, batch_size: int, num_workers: int
) -> tuple[Iterator[np.ndarray], Callable[[], None]]:
    """The loader of a training, started as the command does."""
    from cnn_lab.cli import runtime

    runtime.start(None)
    from cnn_lab.data.augment.crops import RandomCrops
    from cnn_lab.data.datasets.catalog import open_dataset
    from cnn_lab.data.loaders.streaming import MANY_STEPS, StreamingLoader
    from cnn_lab.data.normalize import Preprocess
    from cnn_lab.data.sampler import Sampler

    dataset = open_dataset(f"folder:{folder / 'photographs'}", folder / "data")
    source = dataset.split("train").with_image_size(SIZE)
    loader = StreamingLoader(
        source,
        Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3, pad=0),
        Sampler(np.arange(len(source)), batch_size, seed=0),
        num_workers=num_workers,
        total_steps=MANY_STEPS,
        crops=RandomCrops(AREA, ASPECT, seed=0),
    )

    def batches() -> Iterator[np.ndarray]:
        step = 0
        while True:
            yield loader.load(step, 1)["image"][0]
            step += 1

    return batches(), loader.close


def batches_of_torch(
    folder: Path, batch_size: int, num_workers: int
) -> tuple[Iterator[np.ndarray], Callable[[], None]]:
    """Dataset, endless shuffling sampler and DataLoader."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)  # else its threads wait for each other where cores are shared
    files = sorted((folder / "photographs").rglob("*.jpg"))
    change = torch_crop(torch)

    class Photographs(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> Any:
            with files[index].open("rb") as file:
                return change(Image.open(file).convert("RGB")), index

    class Endless(torch.utils.data.Sampler):
        def __iter__(self) -> Iterator[int]:
            while True:
                yield from torch.randperm(len(files)).tolist()

    loader = torch.utils.data.DataLoader(
        Photographs(),
        batch_size,
        sampler=Endless(),
        num_workers=num_workers,
        multiprocessing_context="fork" if num_workers else None,
    )
    return (images.numpy() for images, _ in loader), lambda: None


def torch_crop(torch: Any) -> Callable[[Image.Image], Any]:
    """From an image to a tensor of a random part of it; height, width and channels in this order.

    PyTorch's users turn it into float32 [c h w] in the workers, which takes longer; cnn_lab leaves
    that to the devices, so it is left out here too.
    """

    def to_tensor(image: Image.Image) -> Any:
        return torch.from_numpy(np.array(image))

    if importlib.util.find_spec("torchvision"):
        transforms = importlib.import_module("torchvision.transforms")
        crop = transforms.RandomResizedCrop(SIZE, AREA, ASPECT)
        return lambda image: to_tensor(crop(image))
    print("torchvision is not installed: its calls of PIL are written out", flush=True)

    def uniform(least: float, most: float) -> float:
        return torch.empty(1).uniform_(least, most).item()

    def crop_by_hand(image: Image.Image) -> Any:
        width, height = image.size
        for _ in range(10):
            area = width * height * uniform(*AREA)
            aspect = math.exp(uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                top = torch.randint(0, height - h + 1, (1,)).item()
                left = torch.randint(0, width - w + 1, (1,)).item()
                break
        else:  # it may be too long ten times: the centre, at the nearest aspect
            w = min(width, round(height * ASPECT[1]))
            h = min(height, round(width / ASPECT[0]))
            left, top = (width - w) // 2, (height - h) // 2
        part = image.crop((left, top, left + w, top + h))
        return to_tensor(part.resize((SIZE[1], SIZE[0]), Image.Resampling.BILINEAR))

    return crop_by_hand


def write_photographs(folder: Path, num_images: int) -> float:
    """Writes images in two classes.

    Returns:
        Bytes of a file on average.
    """
    random = np.random.default_rng(0)
    rows, columns = np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf
    num_bytes = 0
    for number in range(num_images):
        noise = random.normal(size=(2, 3, *frequency.shape))
        planes = np.fft.irfft2((noise[0] + 1j * noise[1]) / frequency**1.2, s=(HEIGHT, WIDTH))
        planes = planes / planes.std((1, 2), keepdims=True) * 45 + 120
        pixels = np.clip(np.rint(planes), 0, 255).astype(np.uint8).transpose(1, 2, 0)
        path = folder / f"class{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, "JPEG", quality=QUALITY)
        num_bytes += path.stat().st_size
    return num_bytes / num_images


if __name__ == "__main__":
    main()
