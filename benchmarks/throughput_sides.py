"""What `benchmarks/throughput.py` lets take turns: trainings of cnn_lab's, and one of PyTorch's."""

import argparse
import importlib
import sys
import time
from collections import deque
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import optax

from cnn_lab.config import DataConfig
from cnn_lab.core import trees
from cnn_lab.data.augment.compose import make_augment
from cnn_lab.data.augment.recipes import RECIPES
from cnn_lab.data.loaders.in_memory import InMemoryLoader
from cnn_lab.data.loaders.loader import Loader
from cnn_lab.data.loaders.streaming import BATCHES_AHEAD, MANY_STEPS, StreamingLoader
from cnn_lab.data.normalize import Preprocess
from cnn_lab.data.sampler import Sampler
from cnn_lab.distributed.mesh import DeviceMesh
from cnn_lab.optim.optimizers import OPTIMIZERS
from cnn_lab.optim.penalties import l2
from cnn_lab.tasks.classification import classification
from cnn_lab.training.state import make_init
from cnn_lab.training.step import make_train_step
from cnn_lab.training.stepper import compile_train

RATE, MOMENTUM, DECAY = 0.01, 0.9, 1e-4
AUXILIARY_SHARE = 0.3  # of the losses of torchvision's auxiliary heads
MIB = 2**20


class LeftOut(Exception):  # noqa: N818 - no error
    """Why there is no such side here."""


class Side:
    """A training of cnn_lab's.

    Attributes:
        title: of its row.
        num_parameters: that it trains.
        compile_seconds: tracing and lowering included.
        ready_seconds: until the end of its first turn.
        num_bytes: that its program takes on a device as the compiler plans it: arguments, which
            results replace, and scratch.
        flops: of an image, as XLA counts them in the compiled step.
    """

    def __init__(self, name: str, arguments: argparse.Namespace, model: Any, mesh: DeviceMesh):
        begun = time.perf_counter()
        self._loader = loader = make_loader(name, arguments, mesh)
        self.title = f"{name} ({loader.name})" if name == "loader" else name
        self._steps, self._mesh, self._step = arguments.steps, mesh, 0
        self._lead = BATCHES_AHEAD if loader.name == "streaming" else 0
        optimizer = OPTIMIZERS["momentum"].make(optax.constant_schedule(RATE), momentum=MOMENTUM)
        init = make_init(model, optimizer, arguments.shape)
        shapes = jax.eval_shape(init, jax.random.key(0))
        self.num_parameters = trees.count(shapes.params)
        program = compile_train(
            make_train_step(model, classification("cross_entropy"), optimizer, l2(DECAY)),
            loader.prepare,
            mesh,
            mesh.with_shardings(shapes),
            loader.device_arrays,
            loader.raw_shapes(),
        )
        self.compile_seconds, self._call = program.compile_seconds, program.call
        self._state = jax.jit(init, out_shardings=mesh.shardings(shapes))(jax.random.key(0))
        compiled: Any = program.call
        planned = compiled.memory_analysis()
        self.num_bytes = program.temporary_bytes + getattr(planned, "argument_size_in_bytes", 0)
        # XLA counts the body of a loop once, and the share of one device.
        flops = (compiled.cost_analysis() or {}).get("flops", 0.0)
        self.flops = flops * mesh.num_devices / arguments.batch
        self.turn()
        self.ready_seconds = time.perf_counter() - begun

    def turn(self) -> float:
        """Takes its steps; returns their seconds."""
        self._run(self._lead)  # what was read ahead in the turns of others is used up first
        start = time.perf_counter()
        self._run(self._steps)
        return time.perf_counter() - start

    def _run(self, num_steps: int) -> None:
        """As the training loop does: while one call runs, the next is prepared."""
        loader, mesh, pending = self._loader, self._mesh, deque()
        end = self._step + num_steps
        while self._step < end:
            number = min(end - self._step, loader.max_steps)
            raw_batches = loader.load(self._step, number)
            with jax.transfer_guard("disallow"):  # nothing moves but what is put here
                scalars = mesh.put((np.int32(self._step), np.int32(number)))
                raw_batches = mesh.put(raw_batches, mesh.batches)
                self._state, history, _ = self._call(
                    self._state, loader.device_arrays, raw_batches, *scalars, {}
                )
            self._step += number
            pending.append(history)
            while len(pending) > 1:
                jax.device_get(pending.popleft())
        jax.block_until_ready((self._state, *pending))
        if int(jax.device_get(self._state.step)) != self._step:
            sys.exit("A step was not finite, so those after it were not run: no time is right.")

    def close(self) -> None:
        """Ends what reads."""
        self._loader.close()


class OnDevice:
    """A loader of one batch that lies on the devices from the beginning."""

    name = "on the device"

    def __init__(self, arguments: argparse.Namespace, mesh: DeviceMesh):
        images, labels = drawn(arguments, arguments.batch)
        images = images.astype(np.float32) / 64 - 2
        self.device_arrays = mesh.put({"image": images, "label": labels}, mesh.sharded)
        self.max_steps = arguments.steps
        self.sampler = Sampler(np.arange(len(labels)), len(labels), 0)
        weights = np.ones((arguments.steps, len(labels)), np.float32)
        self._raw_batches = mesh.put({"weight": weights}, mesh.batches)

    def load(self, first_step: int, num_steps: int) -> Any:  # noqa: ARG002 - a Loader
        """The same weights for every stack; the images are on the devices."""
        return self._raw_batches

    def raw_shapes(self) -> Any:
        """Shapes of the weights."""
        return jax.eval_shape(lambda: self._raw_batches)

    def prepare(self, device_arrays: Any, raw_batch: Any, key: Any) -> Any:  # noqa: ARG002
        """Leaves the batch alone."""
        return {**device_arrays, **raw_batch}

    def close(self) -> None:
        """Lets go of the batch."""
        self.device_arrays = {}


def make_loader(name: str, arguments: argparse.Namespace, mesh: DeviceMesh) -> Loader:
    """The loader of a side.

    Raises:
        LeftOut: Grain is not installed.
    """
    if name == "step":
        return OnDevice(arguments, mesh)
    images, labels = drawn(arguments, arguments.images)
    half = (0.5,) * images.shape[-1]
    preprocess = Preprocess(mean=half, std=half)
    sampler = Sampler(np.arange(len(images)), arguments.batch, seed=0)
    augment = make_augment(
        RECIPES[arguments.recipe]["light"], arguments.shape, arguments.num_classes
    )
    constants = mesh.put(preprocess.constants)
    if name == "loader" and images.nbytes <= DataConfig().in_memory_limit_mib * MIB:
        device_arrays = mesh.put({"image": images, "label": labels})
        device_arrays = {**device_arrays, "constants": constants}
        return InMemoryLoader(device_arrays, preprocess, sampler, arguments.steps, augment)
    try:
        importlib.import_module("grain")  # which the loader itself imports at its first batch
    except ImportError as error:
        raise LeftOut(str(error)) from None
    source: Any = SimpleNamespace(
        fixed_shape=arguments.shape,
        read=lambda rows, _: {"image": images[rows], "label": labels[rows]},
    )
    return StreamingLoader(
        source,
        preprocess,
        sampler,
        num_workers=0,
        total_steps=MANY_STEPS,
        augment=augment,
        constants=constants,
    )


def drawn(arguments: argparse.Namespace, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images, uint8 [n h w c], and labels [n]."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (number, *arguments.shape), np.uint8)
    return images, random.integers(0, arguments.num_classes, number, np.int32)


class Torch:
    """A training of PyTorch's; attributes as `Side` has them.

    Attributes:
        compile_seconds: until the end of the first step.
        num_bytes: largest so far on a GPU; None on a CPU.
        flops: not counted.

    Raises:
        LeftOut: PyTorch, the device or the model is not there, or the model is another one.
    """

    flops = 0.0

    def __init__(self, arguments: argparse.Namespace, num_parameters: int | None):
        begun = time.perf_counter()
        try:
            self._torch = torch = importlib.import_module("torch")
        except ImportError as error:
            raise LeftOut(str(error)) from None
        backend = jax.default_backend()
        if backend not in ("cpu", "gpu") or (backend == "gpu" and not torch.cuda.is_available()):
            raise LeftOut(f"torch {torch.__version__} has no {backend} here")
        self._place = place = "cuda" if backend == "gpu" else "cpu"
        self._steps, self._dtype = arguments.steps, getattr(torch, arguments.dtype)
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # TF32, as JAX takes it
        net = torch_model(arguments.model, arguments.num_classes)
        self.num_parameters = sum(p.numel() for p in net.parameters())
        if num_parameters not in (None, self.num_parameters):
            raise LeftOut(f"its {arguments.model} has {self.num_parameters:,} parameters")
        net = net.to(place, memory_format=torch.channels_last).train()
        kernels = [p for p in net.parameters() if p.ndim > 1]
        vectors = [p for p in net.parameters() if p.ndim == 1]
        groups = [{"params": kernels, "weight_decay": DECAY}, {"params": vectors}]
        fused = True if place == "cuda" else None
        self._optimizer = torch.optim.SGD(groups, lr=RATE, momentum=MOMENTUM, fused=fused)
        images, labels = (torch.from_numpy(a) for a in drawn(arguments, arguments.batch))
        images = images.permute(0, 3, 1, 2).float() / 64 - 2
        self._images = images.to(place, memory_format=torch.channels_last)
        self._labels = labels.long().to(place)
        self.title = "torch (compiled)"
        self._net = torch.compile(net)
        try:
            self._run(1)
        except Exception as error:  # of a compiler that is missing, or a bug in one
            print(f"torch.compile failed, so torch runs eagerly: {first_line(error)}", flush=True)
            self.title, self._net, begun = "torch (eager)", net, time.perf_counter()
        try:
            self._run(1)
            self.compile_seconds = time.perf_counter() - begun
            self.turn()
        except RuntimeError as error:  # of memory, above all
            raise LeftOut(first_line(error)) from None
        self.ready_seconds = time.perf_counter() - begun

    @property
    def num_bytes(self) -> int | None:  # noqa: D102 - above
        return self._torch.cuda.max_memory_allocated() if self._place == "cuda" else None

    def turn(self) -> float:
        """Takes its steps; returns their seconds."""
        start = time.perf_counter()
        self._run(self._steps)
        return time.perf_counter() - start

    def _run(self, num_steps: int) -> None:
        torch, loss = self._torch, None
        cross_entropy, mixed = torch.nn.functional.cross_entropy, self._dtype != torch.float32
        for _ in range(num_steps):
            with torch.autocast(self._place, self._dtype, enabled=mixed):
                outputs = self._net(self._images)
                outputs = (outputs,) if torch.is_tensor(outputs) else outputs
                losses = [cross_entropy(logits, self._labels) for logits in outputs]
                loss = losses[0] + AUXILIARY_SHARE * sum(losses[1:])
            loss.backward()
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        if self._place == "cuda":
            torch.cuda.synchronize()
        if loss is not None and not torch.isfinite(loss):
            sys.exit("PyTorch's loss is not finite; take --dtype=bfloat16 or float32.")

    def close(self) -> None:
        """Nothing is left to end."""


def torch_model(name: str, num_classes: int) -> Any:
    """The model of that name, without trained weights.

    Raises:
        LeftOut: neither library is there with it.
    """
    told = []
    for library, maker in (("torchvision.models", "get_model"), ("timm", "create_model")):
        try:
            make = getattr(importlib.import_module(library), maker)
            return make(name, num_classes=num_classes)
        except (ImportError, RuntimeError, ValueError) as error:
            told.append(f"{library}: {first_line(error)}")
    raise LeftOut("; ".join(told))


def first_line(error: Exception) -> str:
    """What an error says, in short."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
