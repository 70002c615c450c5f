"""What every model in the table promises.

After adding a model, or renaming a parameter on purpose and deleting its old list, write the lists
that are missing under `parameters/` by `python tests/models/test_model_contract.py`.
"""

import math
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_lab.core import trees
from cnn_lab.models.catalog import MODELS
from cnn_lab.tasks import classification

GOLDEN = Path(__file__).parent / "parameters"
# Models whose image is too large for a test's arithmetic name a smaller one here.
TEST_IMAGES: dict[str, tuple[int, int, int]] = {}
# Threshold units are trained by squared error: the cross-entropy of zeros and ones says nothing.
LOSSES = {"perceptron": "squared_error"}
every_model = pytest.mark.parametrize("name", MODELS)


def shapes_of(module: nn.Module, image_shape: tuple[int, ...]):
    """Shapes of the variables and of the logits of two images; nothing is computed."""
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)
    return variables, jax.eval_shape(
        lambda v, x: module.apply(v, x, train=False), variables, images
    )


def listing(name: str) -> str:
    """One line per parameter: path and shape."""
    entry = MODELS[name]
    variables, _ = shapes_of(entry.make(10), entry.image_shape)
    lines = {
        path: "x".join(map(str, p.shape)) for path, p in trees.flatten(variables["params"]).items()
    }
    return "".join(f"{path} {shape}\n" for path, shape in lines.items())


@pytest.fixture(scope="module", params=MODELS)
def ready(request):
    """(name, module, variables, 32 normalised images) of one model after the other."""
    entry = MODELS[request.param]
    module = entry.make(10)
    images = jax.random.normal(
        jax.random.key(1), (32, *TEST_IMAGES.get(request.param, entry.image_shape))
    )
    init = jax.jit(lambda key: module.init(key, images[:1], train=False))
    return request.param, module, init(jax.random.key(0)), images


@every_model
def test_the_parameter_count_is_exact(name):
    entry = MODELS[name]
    variables, logits = shapes_of(entry.make(10), entry.image_shape)
    assert trees.count(variables["params"]) == entry.num_parameters
    assert logits.shape == (2, 10)
    assert logits.dtype == jnp.float32


@every_model
def test_parameters_have_the_paths_that_checkpoints_hold(name):
    assert listing(name) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
    assert {line.split("/")[0] for line in listing(name).splitlines()} <= {"backbone", "head"}


@every_model
def test_other_numbers_of_classes_and_channels_work(name):
    height, width, channels = MODELS[name].image_shape
    variables, logits = shapes_of(MODELS[name].make(7), (height, width, 4 - channels))
    assert logits.shape == (2, 7)
    others = trees.flatten(shapes_of(MODELS[name].make(7), MODELS[name].image_shape)[0])
    changed = [p for p, leaf in trees.flatten(variables).items() if leaf.shape != others[p].shape]
    assert len(changed) == 1  # the first layer's kernel


@every_model
def test_the_backbone_names_its_maps_finest_first(name):
    entry = MODELS[name]
    module, images = entry.make(10), jax.ShapeDtypeStruct((2, *entry.image_shape), jnp.float32)
    variables, _ = shapes_of(module, entry.image_shape)
    names: list[str] = []

    def maps_of(module, images):
        maps = module.backbone(images, train=False)
        names.extend(maps)
        return list(maps.values())

    maps = jax.eval_shape(lambda v, x: module.apply(v, x, method=maps_of), variables, images)
    assert names
    assert all(isinstance(key, str) for key in names)
    assert all(leaf.shape[0] == 2 for leaf in maps)
    pixels = [math.prod(leaf.shape[1:-1]) for leaf in maps]
    assert pixels == sorted(pixels, reverse=True)


@every_model
def test_equal_descriptions_hash_alike(name):
    module, twin, other = (MODELS[name].make(classes) for classes in (10, 10, 11))
    assert (module, hash(module)) == (twin, hash(twin))
    assert module != other


@every_model
def test_every_entry_is_complete(name):
    entry = MODELS[name]
    assert entry.title
    assert any(year in entry.paper for year in map(str, range(1940, 2100)))
    assert entry.make.__doc__


def test_the_gradient_reaches_every_parameter(ready):
    name, module, variables, images = ready
    task, labels = classification(LOSSES.get(name, "cross_entropy")), jnp.arange(32) % 10

    def loss(params):
        rngs = {"dropout": jax.random.key(2)}
        logits = module.apply({**variables, "params": params}, images, train=True, rngs=rngs)
        return jnp.mean(task.losses(logits, {"label": labels}))

    gradients = trees.flatten(jax.jit(jax.grad(loss))(variables["params"]))
    assert [path for path, g in gradients.items() if not bool(jnp.any(g))] == []
    assert [path for path, g in gradients.items() if not bool(jnp.all(jnp.isfinite(g)))] == []


@pytest.mark.parametrize("ready", [name for name in MODELS if name not in LOSSES], indirect=True)
def test_the_initial_loss_is_near_that_of_guessing(ready):
    _, module, variables, images = ready
    logits = module.apply(variables, images, train=False)
    # Over all labels of each image, so that the 32 drawn ones add no noise.
    every_label = jnp.tile(jnp.arange(10), 32)
    losses = classification("cross_entropy").losses(
        jnp.repeat(logits, 10, axis=0), {"label": every_label}
    )
    assert float(losses.mean()) == pytest.approx(math.log(10), rel=0.2)


def test_an_example_is_evaluated_whatever_its_batch_mates_and_compiled_once(ready):
    _, module, variables, images = ready
    # The module is hashed here: another equal one must find the same program.
    evaluate: Any = jax.jit(lambda m, v, x: m.apply(v, x, train=False), static_argnums=0)
    logits = evaluate(module, variables, images)
    mates = images.at[1:].multiply(-3.0)
    # Same program, same rows: not a bit may differ.
    np.testing.assert_array_equal(evaluate(module, variables, mates)[0], logits[0])
    assert not np.array_equal(evaluate(module.clone(), variables, mates)[1], logits[1])
    assert evaluate._cache_size() == 1


if __name__ == "__main__":
    for missing in (n for n in MODELS if not (GOLDEN / f"{n}.txt").exists()):
        (GOLDEN / f"{missing}.txt").write_text(listing(missing), encoding="utf-8")
