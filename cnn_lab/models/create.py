"""Models by name for Python: the names, a module, and its named feature maps."""

import fnmatch
from typing import Any

import flax.linen as nn
import jax

from cnn_lab.config.values import check_options
from cnn_lab.core.arrays import Images, Maps, Tree
from cnn_lab.layers.initialize import own_arrays, trace_module
from cnn_lab.models.registry import MODELS


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models that match a pattern of `*` and `?`, in alphabetical order.

    >>> list_models("resnet1*")
    ['resnet101', 'resnet110', 'resnet1202', 'resnet152', 'resnet18']
    """
    return fnmatch.filter(MODELS, pattern)


def create_model(name: str, num_classes: int | None = None, **options: Any) -> nn.Module:
    """A model by its name: a Linen module, a description without parameters.

    Args:
        name: as `list_models` shows it.
        num_classes: length of the outputs [n k]; by default as in the paper.
        options: those that the model declares (`cnn-lab list models NAME`).

    Returns:
        A module with `apply(variables, images, train=False)` for normalised images [n h w c].

    Raises:
        ConfigError: there is no such model or option; the error offers the nearest names.

    >>> model = create_model("lenet5", num_classes=10, activation="relu")
    >>> model.head.num_classes
    10
    """
    entry = MODELS.lookup(name, "name")
    chosen = check_options(entry.make, options, "options", "name")
    return entry.make(entry.num_classes if num_classes is None else num_classes, **chosen)


def init_variables(
    model: nn.Module, image_shape: tuple[int, int, int], seed: int = 0
) -> dict[str, Any]:
    """The initial parameters and statistics of a model, by collection; nothing is compiled for it.

    The values are those of `jax.jit(model.init)` with `jax.random.key(seed)`, on CPU bit for bit,
    as NumPy arrays.

    Args:
        model: as of `create_model`.
        image_shape: (h, w, c) of its input.
        seed: of the random ones.

    >>> variables = init_variables(create_model("lenet5"), (32, 32, 1))
    >>> variables["params"]["head"]["output"]["kernel"].shape
    (84, 10)
    """
    key = jax.random.key(seed)
    return own_arrays(trace_module(model, image_shape, key)(key))


def feature_maps(model: nn.Module, variables: Tree, images: Images) -> dict[str, Maps]:
    """The named maps that a model's backbone makes of images, as in evaluation, finest first.

    Args:
        model: as of `create_model`.
        variables: its parameters and statistics, by collection.
        images: normalised, [n h w c].

    >>> model = create_model("lenet5")
    >>> images = jax.numpy.zeros((2, 32, 32, 1))
    >>> variables = init_variables(model, (32, 32, 1))
    >>> {name: map.shape for name, map in feature_maps(model, variables, images).items()}
    {'s2': (2, 14, 14, 6), 's4': (2, 5, 5, 16), 'c5': (2, 120)}
    """

    # Inside `jax.jit` and the like the names come back in alphabetical order; see `map_shapes`.
    def maps_of(module: Any, x: jax.Array) -> dict[str, Maps]:
        return module.backbone(x, train=False)

    maps: Any = model.apply(variables, images, method=maps_of)
    return maps


def map_shapes(model: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    """Shapes of the named maps of one image (h, w, c), finest first; nothing is computed.

    >>> map_shapes(create_model("lenet5"), (32, 32, 1))
    {'s2': (14, 14, 6), 's4': (5, 5, 16), 'c5': (120,)}
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def trace(key: jax.Array, images: jax.Array) -> None:
        variables = model.init(key, images, train=False)
        for name, values in feature_maps(model, variables, images).items():
            shapes[name] = values.shape[1:]

    images = jax.ShapeDtypeStruct((1, *image_shape), jax.numpy.float32)
    jax.eval_shape(trace, jax.random.key(0), images)
    return shapes
