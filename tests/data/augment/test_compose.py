"""The whole function: its contract on any device, and what it refuses."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from refusals import refused

from cnn_lab.config.values import check_options, declared_options
from cnn_lab.core.errors import ConfigError
from cnn_lab.data.augment.compose import make_augment
from cnn_lab.data.augment.draws import WORDS, draw
from cnn_lab.data.augment.recipes import RECIPES, Augmentation
from cnn_lab.distributed.mesh import BATCH_AXES, make_mesh

RANDOM = np.random.default_rng(0)
EVERYTHING = Augmentation(
    flip=0.5,
    shift=2,
    fill="reflect",
    crop_area=(0.5, 1.0),
    crop_aspect=(0.8, 1.25),
    rotation=20.0,
    scale=0.2,
    stretch=0.2,
    shear=5.0,
    translate=1.5,
    elastic_alpha=20.0,
    elastic_sigma=3.0,
    brightness=0.3,
    contrast=0.3,
    saturation=0.3,
    hue=0.1,
    grayscale=0.2,
    erasing=0.5,
    mixup=0.2,
    cutmix=1.0,
    mix_probability=0.8,
    randaugment_ops=2,
)
WHOLE = Augmentation(flip=0.5, shift=2, erasing=0.5, cutmix=1.0)
COLLECTIVES = r"[ )}](all-gather|all-to-all|all-reduce|collective-permute)(?:-start)?\("


def batch(num_examples: int = 16, shape=(12, 12, 3)):
    images = RANDOM.integers(0, 256, (num_examples, *shape), dtype=np.uint8)
    return images, RANDOM.integers(0, 5, num_examples).astype(np.int32)


def split_over(num_devices: int, augmentation: Augmentation):
    """The function compiled for a batch that is split over some devices."""
    mesh = make_mesh(num_devices)
    split = NamedSharding(mesh.device_grid, PartitionSpec(BATCH_AXES))
    return jax.jit(
        make_augment(augmentation, (12, 12, 3), 5),
        in_shardings=(mesh.replicated, split, split),
        out_shardings=split,
    )


@pytest.mark.parametrize("augmentation", [WHOLE, EVERYTHING], ids=["whole", "everything"])
def test_the_same_bits_on_any_number_of_devices_and_nothing_travels(augmentation):
    images, labels = batch()
    key = jax.random.key(3)
    found = []
    for num_devices in (1, 2, 4):
        compiled = split_over(num_devices, augmentation).lower(key, images, labels).compile()
        assert re.findall(COLLECTIVES, str(compiled.as_text())) == []
        placed = jax.tree.map(jax.device_put, (key, images, labels), compiled.input_shardings[0])
        found.append([np.asarray(value) for value in compiled(*placed)])
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert one.dtype == two.dtype
            assert np.array_equal(one, two)
    assert not np.array_equal(found[0][0], images)


def test_the_pattern_that_looks_for_collectives_finds_one():
    mesh = make_mesh(4)
    split = NamedSharding(mesh.device_grid, PartitionSpec(BATCH_AXES))
    moved = jax.jit(lambda x: jnp.roll(x, 1, 0), in_shardings=split, out_shardings=split)
    assert re.findall(COLLECTIVES, str(moved.lower(jnp.zeros((16, 2))).compile().as_text()))


def test_a_second_batch_is_not_compiled_again_and_other_keys_change_it():
    traced = []
    plain = make_augment(EVERYTHING, (12, 12, 3), 5)

    def counted(key, images, labels):
        traced.append(1)
        return plain(key, images, labels)

    augment = jax.jit(counted)
    images, labels = batch()
    first, _ = augment(jax.random.key(0), images, labels)
    second, shares = augment(jax.random.key(1), images, labels)
    again, _ = augment(jax.random.key(0), images, labels)
    assert len(traced) == 1
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)
    assert first.dtype == jnp.float32
    assert 0 <= first.min() < first.max() <= 255
    assert np.allclose(shares.sum(1), 1, atol=1e-6)


def test_gradients_of_weights_see_the_images_as_constants():
    images, labels = batch(4)
    augment = make_augment(Augmentation(rotation=20.0, contrast=0.3, mixup=1.0), (12, 12, 3), 5)

    def total(weight):
        changed, shares = augment(jax.random.key(0), jnp.asarray(images), jnp.asarray(labels))
        return weight * changed.sum() + 0 * shares.sum(), changed.sum()

    gradient, expected = jax.jit(jax.grad(total, has_aux=True))(1.0)
    assert gradient == expected


@pytest.mark.parametrize("recipe", RECIPES)
def test_strength_none_is_nothing(recipe):
    augment = make_augment(RECIPES[recipe]["none"], (12, 12, 3), 5)
    images, labels = batch()
    jaxpr = jax.make_jaxpr(augment)(jax.random.key(0), images, labels)
    assert jaxpr.eqns == []
    found = augment(jax.random.key(0), jnp.asarray(images), jnp.asarray(labels))
    assert np.array_equal(found[0], images)
    assert np.array_equal(found[1], labels)


@pytest.mark.parametrize("strength", ["light", "heavy"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_change_images_and_say_whether_labels_change(recipe, strength):
    augmentation = RECIPES[recipe][strength]
    shape = (28, 28, 1) if recipe == "strokes" else (32, 32, 3)
    images, labels = batch(4, shape)
    found, shares = jax.jit(make_augment(augmentation, shape, 5))(jax.random.key(0), images, labels)
    assert found.shape == images.shape
    assert np.isfinite(np.asarray(found, np.float32)).all()
    assert not np.array_equal(found, images)
    assert shares.shape == ((4, 5) if augmentation.mixes else (4,))


def test_strokes_are_never_flipped_and_heavy_is_heavier():
    for light, heavy in ((r["light"], r["heavy"]) for r in RECIPES.values()):
        assert light != heavy
    strokes = RECIPES["strokes"].values()
    assert [s.flip for s in strokes] == [0, 0, 0]
    for name in ("rotation", "scale", "shear", "translate", "elastic_alpha"):
        none, light, heavy = (getattr(s, name) for s in strokes)
        assert 0 == none < light < heavy


def test_what_is_switched_on_does_not_change_what_else_is_drawn():
    key = jax.random.key(5)
    few, many = draw(key, 8), draw(key, 8, 3)
    assert list(few) == list(WORDS)
    assert all(np.array_equal(few[name], many[name]) for name in few)
    assert {"member0", "sign2"} <= set(many)
    values = np.stack([np.asarray(v) for v in many.values()])
    assert len(np.unique(values)) == values.size
    assert 0 <= values.min() < values.max() < 1


def test_options_are_checked_by_name_type_and_range_and_explained():
    path = "config.data.augment.options"
    assert check_options(Augmentation, {"shift": 4, "scale": 1}, path) == {"shift": 4, "scale": 1.0}
    with refused(ConfigError, where=path, found="rotaton", nearest=("rotation",)):
        check_options(Augmentation, {"rotaton": 5}, path)
    part = "a finite number above 0 and at most 1"
    for name, found, allowed in (
        ("flip", 1.5, "a finite number of at least 0 and at most 1"),
        ("fill", "white", "one of black, reflect, edge"),
        ("crop_area", (0.0, 1.0), f"a tuple of 2, each {part}, written like 0.5,0.5"),
        ("hue", 0.6, "a finite number of at least 0 and at most 0.5"),
        ("randaugment_magnitude", 31.0, "a finite number of at least 0 and at most 30"),
        ("elastic_sigma", 0.49, "a finite number of at least 0.5"),
    ):
        with refused(ConfigError, where=f"{path}.{name}", found=found, allowed=allowed):
            check_options(Augmentation, {name: found}, path)
    assert Augmentation.__doc__
    explained = re.findall(r"^        (\w+): ", Augmentation.__doc__, re.MULTILINE)
    assert explained == list(declared_options(Augmentation))


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"shift": 12}, "below 12, for something to be left of 12 x 20 pixels"),
        ({"translate": 30.0}, "below 12, for something to be left of 12 x 20 pixels"),
        ({"crop_area": (1.0, 0.5)}, "the smaller value, then the larger (0.5,1.0)"),
        ({"erasing_aspect": (2.0, 1.0)}, "the smaller value, then the larger (1.0,2.0)"),
    ],
)
def test_what_does_not_fit_is_refused(options, allowed):
    ((name, value),) = options.items()
    where = f"config.data.augment.options.{name}"
    with refused(ConfigError, where=where, found=value, allowed=allowed):
        make_augment(Augmentation(**options), (12, 20, 3), 5)
