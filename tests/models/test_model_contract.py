"""The contract of every registered model.

Shapes and dependencies are checked on every model, by one trace; arithmetic on the small forms, of
which every file of architectures registers one at least.

The paths and shapes of some models' variables are listed under `parameters/`, because checkpoints
hold them. After renaming a parameter on purpose, or to list another model, write its list by
`python tests/models/test_model_contract.py NAME`.
"""

import functools
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Literal
from small_models import SMALL

from cnn_lab.core import trees
from cnn_lab.core.arrays import Tree
from cnn_lab.models.registry import MODELS, ModelEntry
from cnn_lab.tasks.classification import classification
from cnn_lab.tasks.task import WithAuxiliary, last_logits

GOLDEN = Path(__file__).parent / "parameters"
# Threshold units are trained by squared error: the cross-entropy of zeros and ones says nothing.
LOSSES = {"perceptron": "squared_error"}
# A thousand layers take minutes to trace with types checked; test_residual.py counts them.
DEEP = {"resnet1202"}
# Kernels that read the images, where there are several: one a gate, or a branch's and a shortcut's.
FIRST_KERNELS = {"gru": 3, "lstm": 2 * 4, "tcn": 2}
LISTED = sorted(path.stem for path in GOLDEN.glob("*.txt"))
every_model = pytest.mark.parametrize("name", MODELS)
small_models = pytest.mark.parametrize("name", SMALL)


def output_shape(entry: ModelEntry, num_classes: int, image_shape: tuple[int, int, int]):
    """Shape of the outputs for two images."""
    if entry.outputs == "images":
        return (2, *image_shape)
    space = image_shape[:2] if entry.outputs == "pixel_logits" else ()
    return (2, *space, num_classes)


def images_of(image_shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)


def variables_of(module: nn.Module, image_shape: tuple[int, ...]):
    """Shapes of the variables; nothing is computed."""
    init = lambda x: module.init(jax.random.key(0), x, train=False)  # noqa: E731
    return jax.eval_shape(init, images_of(image_shape))


class Traced(NamedTuple):
    """One model of the table, traced on two images as its first training step would begin.

    Attributes:
        entry: of the table.
        variables: shapes and dtypes of the variables.
        outputs: shapes and dtypes of the outputs.
        unused: paths of the parameters that the outputs do not depend on.
    """

    entry: ModelEntry
    variables: Any
    outputs: Any
    unused: list[str]


@functools.cache
def traced_model(name: str) -> Traced:
    entry = MODELS[name]
    module: Any = entry.make(entry.num_classes, dtype="bfloat16")

    def init(images):
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        return module.init_with_output(keys, images, train=True)

    program, shapes = jax.make_jaxpr(init, return_shape=True)(images_of(entry.image_shape))
    outputs, variables = shapes
    paths = trees.flatten(variables["params"])
    number, values = len(jax.tree.leaves(outputs)), program.jaxpr.outvars
    # Parameters and their paths are in the same order, behind the outputs and the statistics.
    drawn = dict(zip(paths, values[-len(paths) :], strict=True))
    assert [*variables][-1] == "params"
    needed = reached(program.jaxpr, values[:number])
    return Traced(entry, variables, outputs, [p for p, v in drawn.items() if v not in needed])


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=pytest.mark.slow) if n in DEEP else n for n in MODELS],
)
def traced(request) -> Traced:
    """One model after the other; all tests of one follow each other."""
    return traced_model(request.param)


def listing(variables: Any) -> str:
    """One line per variable: path and shape."""
    return "".join(
        f"{path} {'x'.join(map(str, leaf.shape))}\n"
        for path, leaf in trees.flatten(variables).items()
    )


def apply(module: nn.Module, variables, images, *, train: bool, seed: int = 2) -> Any:
    """The outputs, and in training the changed collections."""
    rngs = {"dropout": jax.random.key(seed)}
    if not train:
        return module.apply(variables, images, train=False)
    changing = [name for name in variables if name != "params"]
    return module.apply(variables, images, train=True, rngs=rngs, mutable=changing)


def reached(jaxpr: Any, outputs: list[Any]) -> set[Any]:
    """Values that some outputs depend on; inner programs count as a whole."""
    needed = {v for v in outputs if not isinstance(v, Literal)}
    for equation in reversed(jaxpr.eqns):
        if needed & set(equation.outvars):
            needed |= {v for v in equation.invars if not isinstance(v, Literal)}
    return needed


class Ready(NamedTuple):
    """One small model with 32 normalised images, and the first pass of its training."""

    name: str
    module: nn.Module
    variables: Any
    images: jax.Array
    outputs: Any
    gradients: Tree


@pytest.fixture(scope="module", params=SMALL)
def ready(request):
    """One small model after the other."""
    name = request.param
    options, image_shape = SMALL[name]
    module = MODELS[name].make(10, **options)
    images = jax.random.normal(jax.random.key(1), (32, *image_shape))
    init: Any = jax.jit(lambda key: module.init(key, images[:1], train=False))
    variables = init(jax.random.key(0))
    task = classification(LOSSES.get(name, "cross_entropy"))

    def loss(params):
        outputs, _ = apply(module, {**variables, "params": params}, images, train=True)
        if MODELS[name].outputs == "images":
            return jnp.mean(jnp.square(outputs - images)), outputs
        flat = outputs.reshape(-1, 10) if MODELS[name].outputs == "pixel_logits" else outputs
        labels = jnp.arange(_last(flat).shape[0]) % 10
        return jnp.mean(task.losses(flat, {"label": labels})), outputs

    (_, outputs), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    return Ready(name, module, variables, images, outputs, gradients)


def test_every_file_of_architectures_has_a_small_form():
    small = {MODELS[name].make.__module__ for name in SMALL}
    assert {entry.make.__module__ for entry in MODELS.values()} == small


def test_the_parameter_count_is_exact(traced):
    assert trees.count(traced.variables["params"]) == traced.entry.num_parameters


def test_kernels_are_known_by_their_name(traced):
    """Decay, penalties and Muon go by the number of axes; no bias or scale has two."""
    params = trees.flatten(traced.variables["params"])
    wide = {path.rpartition("/")[2] for path, leaf in params.items() if leaf.ndim > 1}
    assert wide == {"kernel"}
    assert all(leaf.ndim > 1 for path, leaf in params.items() if path.endswith("/kernel"))


@pytest.mark.parametrize("name", LISTED)
def test_variables_have_the_paths_that_checkpoints_hold(name):
    found = listing(traced_model(name).variables)
    assert found == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def test_in_bfloat16_variables_stay_float32_and_logits_depend_on_every_parameter(traced):
    entry, variables = traced.entry, traced.variables
    first = {path.split("/")[0] for path in trees.flatten(variables["params"])}
    assert {"head"} <= first <= {"backbone", "head"} | {p for p in first if "auxiliary_" in p}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    shape = output_shape(entry, entry.num_classes, entry.image_shape)
    for each in jax.tree.leaves(traced.outputs):
        assert (each.shape, each.dtype) == (shape, jnp.float32)
    assert traced.unused == []


@small_models
def test_statistics_stay_float32_in_bfloat16(name):
    options, image_shape = SMALL[name]
    module = MODELS[name].make(10, **options, dtype="bfloat16")
    images, variables = images_of(image_shape), variables_of(module, image_shape)
    step = lambda v, x: apply(module, v, x, train=True)[1]  # noqa: E731
    changed = jax.eval_shape(step, variables, images)
    assert {leaf.dtype for leaf in jax.tree.leaves(changed)} <= {jnp.dtype(jnp.float32)}


def _has_more(outputs: Any) -> bool:
    return isinstance(outputs, WithAuxiliary)


def _last(outputs: Any) -> Any:
    return outputs.logits if _has_more(outputs) else outputs


@small_models
def test_other_numbers_of_classes_and_channels_work(name):
    options, (height, width, channels) = SMALL[name]
    module: Any = MODELS[name].make(7, **options)
    init = lambda x: module.init_with_output(jax.random.key(0), x, train=False)  # noqa: E731
    outputs, variables = jax.eval_shape(init, images_of((height, width, 4 - channels)))
    wanted = output_shape(MODELS[name], 7, (height, width, 4 - channels))
    assert last_logits(outputs).shape == wanted
    before = trees.flatten(variables_of(module, (height, width, channels)))
    changed = [p for p, leaf in trees.flatten(variables).items() if leaf.shape != before[p].shape]
    # The first layer's kernel; and the last one's and its bias where images come out.
    several = 3 if MODELS[name].outputs == "images" else 1
    assert len(changed) == FIRST_KERNELS.get(name, several)


@small_models
def test_the_backbone_names_its_maps_finest_first(name):
    options, image_shape = SMALL[name]
    module = MODELS[name].make(10, **options)
    names: list[str] = []

    def maps_of(module, images):
        maps = module.backbone(images, train=False)
        names.extend(maps)
        return list(maps.values())

    init = lambda x: module.init_with_output(jax.random.key(0), x, method=maps_of)[0]  # noqa: E731
    maps = jax.eval_shape(init, images_of(image_shape))
    assert names
    assert all(isinstance(key, str) for key in names)
    assert all(leaf.shape[0] == 2 for leaf in maps)
    pixels = [math.prod(leaf.shape[1:-1]) for leaf in maps]
    assert pixels == sorted(pixels, reverse=True)


@every_model
def test_equal_descriptions_hash_alike(name):
    module, twin, other = (MODELS[name].make(classes) for classes in (10, 10, 11))
    assert (module, hash(module)) == (twin, hash(twin))
    assert (module == other) == (MODELS[name].outputs == "images")


@every_model
def test_every_entry_is_complete(name):
    entry = MODELS[name]
    assert entry.title
    assert entry.macs
    assert any(year in entry.paper for year in map(str, range(1940, 2100)))
    assert entry.make.__doc__
    assert entry.make.__name__ == name


def test_the_gradient_reaches_every_parameter(ready):
    gradients = {path: np.asarray(g) for path, g in trees.flatten(ready.gradients).items()}
    assert [path for path, g in gradients.items() if not g.any()] == []
    assert [path for path, g in gradients.items() if not np.isfinite(g).all()] == []


GUESSING = [name for name in SMALL if name not in LOSSES and MODELS[name].outputs != "images"]


@pytest.mark.parametrize("ready", GUESSING, indirect=True)
def test_the_initial_loss_is_near_that_of_guessing(ready):
    # With batch statistics of these images, as the first step of a training has them.
    logits = jnp.asarray(_last(ready.outputs)).reshape(-1, 10)
    # Over all labels of each image, so that the 32 drawn ones add no noise.
    every_label = jnp.tile(jnp.arange(10), len(logits))
    losses = classification("cross_entropy").losses(
        jnp.repeat(logits, 10, axis=0), {"label": every_label}
    )
    assert float(losses.mean()) == pytest.approx(math.log(10), rel=0.2)


def test_an_example_is_evaluated_whatever_its_batch_mates_and_compiled_once(ready):
    module, variables, images = ready.module, ready.variables, ready.images
    # The module is hashed here: another equal one must find the same program.
    evaluate: Any = jax.jit(lambda m, v, x: apply(m, v, x, train=False), static_argnums=0)
    logits = evaluate(module, variables, images)
    mates = images.at[1:].multiply(-3.0)
    # Same program, same rows: not a bit may differ.
    np.testing.assert_array_equal(evaluate(module, variables, mates)[0], logits[0])
    assert not np.array_equal(evaluate(module.clone(), variables, mates)[1], logits[1])
    assert evaluate._cache_size() == 1


if __name__ == "__main__":
    for chosen in sys.argv[1:]:
        text = listing(traced_model(chosen).variables)
        (GOLDEN / f"{chosen}.txt").write_text(text, encoding="utf-8")
