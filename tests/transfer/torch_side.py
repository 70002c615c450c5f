"""Models of torchvision and timm with random weights, and how far ours are from them."""

import dataclasses
import importlib
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_lab.core import trees
from cnn_lab.models.catalog import MODELS
from cnn_lab.transfer import convert
from cnn_lab.transfer.naming.catalog import NAMINGS

os.environ.setdefault("HF_HUB_OFFLINE", "1")
TIMM_NAMES = {"mobilenet_v2": "mobilenetv2_100"}
WITHOUT_TIMM = {"alexnet", "googlenet", "squeezenet1_0", "squeezenet1_1"}
SMALLEST = {"inception_v3": 75}
NUM_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Distance:
    """Largest relative differences, and where the first layer lies that differs.

    Attributes:
        logits: of two images.
        gradients: of the cross-entropy, of the parameter with the largest difference.
        layer: theirs and ours, with its difference; empty where all agree.
    """

    logits: float
    gradients: float
    layer: str


def import_torch() -> Any:
    """PyTorch, ready for a torchvision that was compiled for another build of it."""
    torch = importlib.import_module("torch")
    for name in ("nms", "qnms"):
        try:
            torch.library.define(
                f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        except RuntimeError:  # torchvision was imported before
            break
    return torch


def make_torch(name: str, library: str, **options: Any) -> Any:
    """A model of a library by our name, in evaluation mode."""
    import_torch()
    if library == "timm":
        timm = importlib.import_module("timm")
        return timm.create_model(TIMM_NAMES.get(name, name), **options).eval()
    models = importlib.import_module("torchvision.models")
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": True, "init_weights": False, **options}
    return getattr(models, name)(**options).eval()


def options_for(name: str, library: str) -> dict[str, Any]:
    """Options of ours with which it is the library's model."""
    return {"auxiliary": False} if (name, library) == ("inception_v3", "timm") else {}


def variable_shapes(name: str, num_classes: int, **options: Any) -> tuple[Any, Any]:
    """Our module, and the shapes of its variables."""
    entry = MODELS[name]
    module = entry.make(num_classes, **options)
    images = jax.ShapeDtypeStruct((1, *entry.image_shape), jnp.float32)
    init = lambda x: dict(module.init(jax.random.key(0), x, train=False))  # noqa: E731
    return module, jax.eval_shape(init, images)


def randomize(model: Any, seed: int) -> None:
    """Draws every value anew, statistics too, at scales that keep activations near 1."""
    torch = import_torch()
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: Any, low: float, high: float) -> None:
        tensor.uniform_(low, high, generator=generator)

    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            if name.endswith(("running_mean", "bias")):
                draw(tensor, -0.2, 0.2)
            elif name.endswith(("layer_scale", "gamma")):
                draw(tensor, 0.1, 0.3)
            elif tensor.ndim == 1:
                draw(tensor, 0.5, 1.5)
            else:
                bound = (6.0 / tensor[0].numel()) ** 0.5
                draw(tensor, -bound, bound)


def tensors_of(model: Any) -> dict[str, np.ndarray]:
    """The state of a torch model by name."""
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference in terms of the largest value."""
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30))


def distance(name: str, library: str, *, size: int = 64, seed: int = 0) -> Distance:
    """Imports random weights of a library's model and compares logits and gradients."""
    torch = import_torch()
    model = make_torch(name, library, num_classes=NUM_CLASSES)
    randomize(model, seed)
    module, shapes = variable_shapes(name, NUM_CLASSES, **options_for(name, library))
    table = convert.make_table(module, shapes, NAMINGS[name][library])
    leaves = convert.to_ours(tensors_of(model), table, frozenset())
    variables = jax.tree_util.tree_map_with_path(lambda p, _: leaves[trees.path_of(p)], shapes)
    size = max(size, SMALLEST.get(name, 0))
    images = np.random.default_rng(seed).normal(size=(2, size, size, 3)).astype(np.float32)
    labels = np.array([3, 7])

    outputs: dict[str, np.ndarray] = {}
    hooks = [part.register_forward_hook(_keep(outputs, n)) for n, part in model.named_modules()]
    theirs = model(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    for hook in hooks:
        hook.remove()
    torch.nn.functional.cross_entropy(theirs, torch.from_numpy(labels)).backward()

    def loss(params):
        collections = {**variables, "params": params}
        logits = module.apply(collections, images, train=False)
        return -jnp.mean(jax.nn.log_softmax(logits)[np.arange(2), labels]), logits

    (_, ours), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    found = relative(np.asarray(ours), theirs.detach().numpy())
    return Distance(
        found,
        _distance_of_gradients(gradients, table, model),
        "" if found < 1e-4 else _first_layer(module, variables, images, table, outputs),
    )


def _keep(outputs: dict[str, np.ndarray], name: str) -> Any:
    def hook(module: Any, inputs: Any, output: Any) -> None:
        if hasattr(output, "detach"):
            outputs.setdefault(name, output.detach().numpy().copy())

    return hook


def _distance_of_gradients(gradients: Any, table: list[convert.Leaf], model: Any) -> float:
    """Of the worst parameter; those of auxiliary heads have none."""
    ours = {"params/" + path: leaf for path, leaf in trees.flatten(gradients).items()}
    theirs = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    rows = [leaf for leaf in table if leaf.name in theirs]
    assert len(rows) == len(theirs) > 0
    return max(
        relative(leaf.to_theirs(np.asarray(ours[leaf.path])), theirs[leaf.name].numpy())
        for leaf in rows
    )


def _first_layer(
    module: Any, variables: Any, images: np.ndarray, table: list[convert.Leaf], outputs: Any
) -> str:
    _, kept = module.apply(
        variables, images, train=False, capture_intermediates=True, mutable=["intermediates"]
    )
    ours = {
        path.removesuffix("/__call__/0"): np.asarray(leaf)
        for path, leaf in trees.flatten(kept["intermediates"]).items()
        if path.endswith("/__call__/0")
    }
    layers = {leaf.name.rpartition(".")[0]: leaf.layer for leaf in table}
    for name, theirs in outputs.items():
        layer = layers.get(name)
        if layer not in ours:
            continue
        mine = ours[layer]
        if theirs.ndim == 4 and mine.ndim == 4 and theirs.shape != mine.shape:
            mine = mine.transpose(0, 3, 1, 2)
        if mine.shape != theirs.shape:
            return f"{name} ({layer}): shape {mine.shape}, theirs {theirs.shape}"
        if (found := relative(mine, theirs)) > 1e-4:
            return f"{name} ({layer}): {found:.1e}"
    return "none of the layers with weights"
