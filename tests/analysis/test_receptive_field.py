"""Receptive fields equal the pixels that a gradient reaches."""

from collections.abc import Callable
from fractions import Fraction

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_lab.analysis.cost import cost_of
from cnn_lab.analysis.receptive_field import Field, field_of_images, walk
from cnn_lab.layers.channels import SqueezeExcite
from cnn_lab.layers.convolution import as_asked
from cnn_lab.layers.factory import LayerFactory
from cnn_lab.layers.pooling import average_pool, max_pool
from cnn_lab.layers.unpooling import ConvTranspose, nearest_unpool

LAYERS = LayerFactory()
SIDE = 40


def conv(x, kernel, strides=1, padding=None, *, name: str, **options):
    return LAYERS.conv(4, kernel, strides, padding, name=name, **options)(x)


def residual(x):
    y = conv(conv(x, 3, 2, name="a"), 3, name="b")
    return nn.relu(y + conv(x, 1, 2, name="shortcut"))


def inception(x):
    branches = [conv(x, 1, name="a"), conv(x, 5, name="b"), conv(max_pool(x, 3, 1, 1), 1, name="c")]
    return conv(jnp.concatenate(branches, -1), 3, name="d")


def shifted(x):
    left = conv(x, 3, padding=((0, 2), (1, 1)), name="a")
    return left + conv(x, 3, padding=((2, 0), (1, 1)), name="b")


# The net, and the side and stride of its receptive field.
NETS: dict[str, tuple[Callable, int | tuple[int, int], float]] = {
    "one": (lambda x: conv(x, 3, name="a"), 3, 1),
    "two": (lambda x: conv(conv(x, 3, name="a"), 3, name="b"), 5, 1),
    "three": (lambda x: conv(conv(conv(x, 3, name="a"), 3, name="b"), 3, name="c"), 7, 1),
    "not square": (lambda x: conv(conv(x, (1, 5), name="a"), (3, 1), name="b"), (3, 5), 1),
    "dilated": (lambda x: conv(conv(x, 3, name="a"), 3, dilation=4, name="b"), 11, 1),
    "strided": (lambda x: conv(conv(x, 3, 2, name="a"), 3, 2, name="b"), 7, 4),
    "grouped": (lambda x: conv(conv(x, 3, name="a"), 5, groups=4, name="b"), 7, 1),
    "tiles": (lambda x: conv(max_pool(conv(x, 3, name="a"), 2), 3, name="b"), 8, 2),
    "windows": (lambda x: conv(max_pool(x, 3, 2, 1), 3, name="b"), 7, 2),
    "averages": (lambda x: conv(average_pool(x, 2), 3, name="b"), 6, 2),
    "windowed averages": (lambda x: average_pool(conv(x, 3, name="a"), 3, 2, 1), 5, 2),
    "residual": (residual, 7, 2),
    "inception": (inception, 7, 1),
    "shifted branches": (shifted, (5, 3), 1),
    "flipped": (lambda x: conv(jnp.flip(conv(x, 3, name="a"), (1, 2)), 3, name="b"), 5, -1),
    "cut": (lambda x: conv(x[:, 3::2, 1:-4:2], 3, name="a"), 5, 2),
    "unpooled": (lambda x: conv(nearest_unpool(max_pool(x, 2), 2), 3, name="a"), 4, 1),
    "transposed": (lambda x: ConvTranspose(4, 2, 2)(conv(x, 2, 2, 0, name="a")), 2, 1),
    "remembered": (lambda x: nn.remat(nn.Conv)(4, (3, 3), name="a")(x), 3, 1),
    "jitted": (lambda x: jax.jit(lambda x: max_pool(nn.silu(x), 3, 1, 1))(x), 3, 1),
    "normalised": (lambda x: LAYERS.norm(train=False, name="n")(conv(x, 3, name="a")), 3, 1),
}


class Net(nn.Module):
    """Calls a function inside a module."""

    function: Callable

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return self.function(x)


def analysed(function: Callable, images: jax.Array) -> Field:
    module = Net(function)
    with as_asked():
        variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)
        program = jax.make_jaxpr(lambda v, x: module.apply(v, x, train=False))(variables, images)
    fields = [None] * (len(program.jaxpr.invars) - 1)
    found = walk(program.jaxpr, [*fields, field_of_images(2)], lambda *_: None)[0]
    assert found is not None
    return found


@pytest.mark.parametrize("name", NETS)
def test_the_gradient_of_a_value_reaches_its_field_and_no_further(name):
    function, side, stride = NETS[name]
    # Many images, so that each pixel of a window of max-pooling wins somewhere.
    images = jax.random.normal(jax.random.key(0), (48, SIDE, SIDE, 4))
    field = analysed(function, images)
    assert field.size == (side if isinstance(side, tuple) else (side, side))
    assert (field.jumps[1], field.jumps[2]) == ((stride, 0), (0, stride))
    module = Net(function)
    variables = module.init(jax.random.key(1), images[:1], train=False)
    at = 4 + jax.eval_shape(lambda x: module.apply(variables, x, train=False), images).shape[1] // 3
    at -= at % 2  # unpooled pixels: the first of a pair

    def value(x):
        return jnp.asarray(module.apply(variables, x, train=False))[:, at, at].sum()

    reached = np.asarray(jnp.any(jax.jit(jax.grad(value))(images) != 0, (0, 3)))
    for axis in range(2):
        places = np.flatnonzero(reached.any(1 - axis))
        first = field.first[axis] + at * Fraction(stride)
        if name in ("unpooled", "transposed"):
            # Neighbours of a pair see one pixel more on one side: the size is the larger one's.
            assert abs(places[0] - first) <= 1
            assert len(places) in (field.size[axis], field.size[axis] - 2)
        else:
            assert (places[0], places[-1]) == (first, field.last[axis] + at * Fraction(stride))


def test_what_depends_on_everything():
    images = jnp.zeros((1, 9, 7, 4))
    gate = analysed(lambda x: SqueezeExcite(2, name="gate")(x), images)
    assert all(size >= whole for size, whole in zip(gate.size, (9, 7), strict=True))
    for function in (
        lambda x: x.mean((1, 2)),
        lambda x: x.reshape(1, -1),
        lambda x: jnp.sort(x, 1),
    ):
        field = analysed(function, images)
        assert field.size[0] == 9


def test_known_fields():
    """Araujo, Norris, Sim 2019, table 1: AlexNet v2 195, VGG-16 212; its ResNet-50, whose strides
    lie at the first 1x1 convolutions, has 483."""
    from cnn_lab.models.registry import MODELS

    for name, path, side in (
        ("alexnet", "backbone", 195),  # the last pooling
        ("vgg16", "backbone", 212),
        ("resnet18", "backbone/stage4_block2/bn2", 435),
        ("resnet50", "backbone/stage4_block3/bn3", 427),
    ):
        entry = MODELS[name]
        layers = {layer.path: layer for layer in cost_of(entry.make(10), (224, 224, 3)).layers}
        assert layers[path].receptive_field == (side, side)
        assert layers[path].stride == (32, 32)


def test_stacks_of_the_syllabus():
    sizes = {name: analysed(NETS[name][0], jnp.zeros((1, 9, 9, 4))).size for name in NETS}
    assert (sizes["two"], sizes["three"]) == ((5, 5), (7, 7))
