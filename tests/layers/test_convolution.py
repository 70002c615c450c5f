"""The convolution equals lax's in values and in derivatives of every order."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cnn_lab.core import trees
from cnn_lab.layers.convolution import NHWC, Conv, conv_general_dilated

# images [n h w c], kernel [h w c features], strides, padding
CASES = {
    "lenet c1": ((2, 16, 16, 1), (5, 5, 1, 6), (1, 1), "VALID"),
    "lenet c3": ((2, 14, 14, 6), (5, 5, 6, 16), (1, 1), "VALID"),
    "image too large to rearrange": ((1, 50, 49, 3), (7, 7, 3, 8), (2, 2), ((3, 3), (3, 3))),
    "narrow, width not a multiple of the pixels": ((3, 6, 9, 3), (3, 3, 3, 4), (1, 1), "VALID"),
    "same": ((2, 7, 6, 5), (3, 3, 5, 8), (1, 1), "SAME"),
    "same below, strided": ((2, 7, 8, 3), (4, 3, 3, 4), (2, 3), "SAME_LOWER"),
    "wide": ((2, 6, 6, 20), (3, 3, 20, 24), (1, 1), "SAME"),
    "wide in, narrow out": ((2, 6, 6, 18), (3, 3, 18, 4), (1, 1), "VALID"),
    "stride that divides": ((2, 9, 9, 3), (3, 3, 3, 8), (2, 2), "VALID"),
    "stride that does not": ((2, 10, 11, 3), (3, 3, 3, 8), (3, 2), "VALID"),
    "stride above the kernel": ((2, 11, 9, 3), (2, 1, 3, 4), (4, 3), ((1, 0), (0, 2))),
    "strided same, even kernel": ((2, 7, 10, 4), (4, 5, 4, 6), (2, 2), "SAME"),
    "one by one, strided": ((2, 5, 6, 7), (1, 1, 7, 20), (2, 2), "VALID"),
    "one by three": ((2, 6, 8, 3), (1, 3, 3, 4), (1, 1), ((0, 0), (1, 1))),
    "three by one": ((2, 6, 8, 3), (3, 1, 3, 4), (1, 1), ((1, 1), (0, 0))),
    "grows the map": ((2, 5, 5, 3), (3, 3, 3, 4), (1, 1), ((3, 2), (2, 4))),
    "negative padding": ((2, 8, 9, 3), (3, 3, 3, 4), (1, 1), ((-1, -2), (-1, 2))),
    "negative padding, strided": ((2, 9, 9, 3), (2, 2, 3, 4), (2, 3), ((3, -1), (-1, 4))),
    "kernel as large as the map": ((3, 5, 5, 4), (5, 5, 4, 9), (1, 1), "VALID"),
    "kernel larger than the map": ((2, 3, 4, 3), (5, 5, 3, 4), (1, 1), "SAME"),
    "map smaller than the kernel": ((2, 2, 2, 18), (3, 3, 18, 20), (1, 1), "SAME"),
    "output smaller than the kernel": ((2, 4, 4, 18), (3, 3, 18, 20), (2, 2), "SAME"),
    "low map, wide kernel": ((2, 3, 9, 4), (1, 7, 4, 5), (1, 2), ((0, 0), (3, 2))),
    "depthwise": ((2, 7, 8, 5), (3, 3, 1, 5), (1, 1), "SAME"),
    "depthwise, strided": ((2, 9, 8, 5), (3, 5, 1, 5), (2, 3), ((1, 0), (2, -1))),
    "depthwise, two features a channel": ((2, 6, 6, 3), (3, 3, 1, 6), (1, 1), "SAME"),
    "one pixel of one image": ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1), "VALID"),
}
SECOND_ORDER = (
    *("lenet c3", "same", "wide", "stride that does not", "grows the map"),
    *("one by one, strided", "negative padding, strided"),
    *("map smaller than the kernel", "depthwise, strided"),
)
all_cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def arrays(case, dtype):
    random = np.random.default_rng(0)
    images, kernel = random.normal(size=case[0]), random.normal(size=case[1])
    kernel /= np.sqrt(np.prod(case[1][:-1]))  # outputs near 1, so that errors are not blown up
    return jnp.asarray(images, dtype), jnp.asarray(kernel, dtype)


def pair(case) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(ours, lax's), as functions of images and kernel."""
    options = {"window_strides": case[2], "padding": case[3], "dimension_numbers": NHWC}
    options["feature_group_count"] = case[0][-1] // case[1][2]
    ours = functools.partial(conv_general_dilated, **options)
    return ours, functools.partial(lax.conv_general_dilated, **options)


def first_order(conv, images, kernel):
    """Output and both gradients of a loss that is not linear in the output."""
    output = conv(images, kernel)
    loss = lambda x, w: jnp.sum(jnp.sin(conv(x, w)))  # noqa: E731
    return output, jax.grad(loss, (0, 1))(images, kernel)


def second_order(conv, images, kernel):
    """Hessian-vector products, reverse over reverse and forward over reverse."""
    gradient = jax.grad(lambda x, w: jnp.sum(jnp.sin(conv(x, w))), (0, 1))
    along = (jnp.cos(images), jnp.cos(kernel))
    dot = lambda x, w: sum(jnp.vdot(g, a) for g, a in zip(gradient(x, w), along, strict=True))  # noqa: E731
    return jax.grad(dot, (0, 1))(images, kernel), jax.jvp(gradient, (images, kernel), along)[1]


def assert_close(found, wanted, relative: float):
    """Every leaf within `relative` of the largest value of the wanted one."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=relative * max(1.0, float(abs(b).max())))


def assert_float64_equals_lax(compute: Callable[..., Any], case):
    # Sums of at most some thousand terms in double precision: 1e-10 leaves only the order of them.
    with jax.enable_x64(True):
        inputs = arrays(case, jnp.float64)
        ours, theirs = jax.jit(lambda *a: [compute(conv, *a) for conv in pair(case)])(*inputs)
        assert jax.tree.leaves(ours)[0].dtype == jnp.float64
        assert_close(ours, theirs, 1e-10)


@all_cases
def test_values_and_both_gradients_equal_lax(case):
    assert_float64_equals_lax(first_order, case)


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_second_derivatives_equal_lax(name):
    assert_float64_equals_lax(second_order, CASES[name])


@pytest.mark.parametrize("name", ["lenet c3", "stride that does not", "grows the map"])
def test_float32_equals_lax(name):
    # Half an ulp (6e-8) a term; some hundred terms, added in another order.
    inputs = arrays(CASES[name], jnp.float32)
    both = lambda x, w: [first_order(conv, x, w) for conv in pair(CASES[name])]  # noqa: E731
    ours, theirs = jax.jit(both)(*inputs)
    assert_close(ours, theirs, 3e-6)


def test_bfloat16_stays_bfloat16():
    case = CASES["lenet c3"]
    inputs = arrays(case, jnp.bfloat16)
    ours, theirs = jax.jit(lambda *a: [first_order(c, *a) for c in pair(case)])(*inputs)
    assert {leaf.dtype for leaf in jax.tree.leaves(ours)} == {jnp.dtype(jnp.bfloat16)}
    assert_close(ours, theirs, 2e-2)  # 8 bits of mantissa: half an ulp is 4e-3


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("lenet c3", (0, None)),
        ("lenet c3", (0, 0)),
        ("wide", (None, 0)),
        ("strided same, even kernel", (0, 0)),
    ],
)
def test_vmap_equals_lax(name, axes):
    case = CASES[name]
    images, kernel = arrays(case, jnp.float32)
    many = lambda x: jnp.stack([x, x[::-1], -x])  # noqa: E731
    inputs = tuple(
        x if axis is None else many(x) for x, axis in zip((images, kernel), axes, strict=True)
    )
    both = lambda x, w: [first_order(conv, x, w) for conv in pair(case)]  # noqa: E731
    ours, theirs = jax.jit(jax.vmap(both, axes))(*inputs)
    assert_close(ours, theirs, 3e-6)


def by_scan(step, kernel):
    return lax.scan(lambda w, _: (step(w), jnp.sum(w)), kernel, None, length=4)[0]


def by_while_loop(step, kernel):
    carry = lax.while_loop(lambda c: c[0] < 4, lambda c: (c[0] + 1, step(c[1])), (0, kernel))
    return carry[1]


@pytest.mark.parametrize(
    ("loop", "name"),
    [(by_scan, "lenet c3"), (by_while_loop, "same"), (by_while_loop, "stride that does not")],
)
def test_descent_inside_a_compiled_loop_equals_lax(loop, name):
    case = CASES[name]
    images, kernel = arrays(case, jnp.float32)

    def descend(conv, x, w):
        loss = lambda w: jnp.mean(jnp.square(conv(x, w)))  # noqa: E731
        return loop(lambda w: w - 0.1 * jax.grad(loss)(w), w)

    both = lambda *inputs: [descend(conv, *inputs) for conv in pair(case)]  # noqa: E731
    ours, theirs = jax.jit(both)(images, kernel)
    assert float(abs(ours - kernel).max()) > 0.01
    assert_close(ours, theirs, 3e-6)


def convolutions(jaxpr):
    """All convolutions of a jaxpr, those of inner ones too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            yield equation
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda v: hasattr(v, "jaxpr")
        ):
            if hasattr(value, "jaxpr"):
                yield from convolutions(value.jaxpr)


@pytest.mark.parametrize("name", ["lenet c3", "strided same, even kernel", "wide"])
def test_forward_and_both_gradients_have_the_layout_that_cpus_compute_fast(name):
    inputs = arrays(CASES[name], jnp.float32)
    ours, theirs = (
        {
            equation.params["dimension_numbers"]
            for equation in convolutions(
                jax.make_jaxpr(functools.partial(first_order, conv))(*inputs).jaxpr
            )
        }
        for conv in pair(CASES[name])
    )
    nhwc = lax.conv_dimension_numbers((1, 1, 1, 1), (1, 1, 1, 1), NHWC)
    assert ours == {nhwc}
    assert theirs > {nhwc}  # what autodiff writes by itself


@pytest.mark.parametrize("name", ["map smaller than the kernel", "depthwise"])
def test_im2col_and_shift_and_add_replace_what_the_library_refuses(name):
    program = jax.make_jaxpr(functools.partial(first_order, pair(CASES[name])[0]))
    assert not list(convolutions(program(*arrays(CASES[name], jnp.float32)).jaxpr))


@pytest.mark.parametrize(
    "options",
    [
        {"rhs_dilation": (2, 1)},
        {"lhs_dilation": (1, 2)},
        {"feature_group_count": 2},
        {"batch_group_count": 2},
        {"preferred_element_type": jnp.float32},
        {"precision": lax.Precision.HIGHEST},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_the_fast_form_cannot_do_is_left_to_lax(options):
    channels = 2 if "feature_group_count" in options else 4
    dtype = jnp.bfloat16 if "preferred_element_type" in options else jnp.float32
    inputs = arrays(((2, 8, 9, 4), (3, 3, channels, 6)), dtype)
    ours, theirs = (
        conv(*inputs, (1, 1), ((1, 1), (2, 0)), dimension_numbers=NHWC, **options)
        for conv in (conv_general_dilated, lax.conv_general_dilated)
    )
    assert ours.shape == theirs.shape
    assert_close(ours, theirs, 3e-6)


@pytest.mark.parametrize(
    ("images", "kernel", "layout"),
    [
        ((2, 9, 4), (3, 4, 6), ("NWC", "WIO", "NWC")),
        ((2, 5, 6, 7, 4), (3, 3, 3, 4, 6), ("NDHWC", "DHWIO", "NDHWC")),
        ((2, 4, 8, 9), (6, 4, 3, 3), ("NCHW", "OIHW", "NCHW")),
        ((2, 4, 8, 9), (6, 4, 3, 3), None),
    ],
)
def test_other_dimensions_and_layouts_are_left_to_lax(images, kernel, layout):
    inputs = arrays((images, kernel), jnp.float32)
    strides = (1,) * (len(images) - 2)
    ours, theirs = (
        conv(*inputs, strides, "SAME", dimension_numbers=layout)
        for conv in (conv_general_dilated, lax.conv_general_dilated)
    )
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kernel", [(7, 7), (5, 9), (9, 5)])
def test_a_map_smaller_than_the_kernel_becomes_an_empty_one(kernel):
    images = jnp.ones((2, 6, 6, 3))
    ours, theirs = (
        conv(images, jnp.ones((*kernel, 3, 4)), (1, 1), "VALID", dimension_numbers=NHWC)
        for conv in (conv_general_dilated, lax.conv_general_dilated)
    )
    assert ours.shape == theirs.shape


def test_it_drops_into_linen():
    images = jax.random.normal(jax.random.key(0), (2, 9, 8, 3))
    module, plain = (make(6, (3, 3), strides=2) for make in (Conv, nn.Conv))
    variables, wanted = (jax.jit(m.init)(jax.random.key(0), images) for m in (module, plain))
    assert trees.digests(variables) == trees.digests(wanted)
    assert {path: leaf.shape for path, leaf in trees.flatten(variables).items()} == {
        "params/bias": (6,),
        "params/kernel": (3, 3, 3, 6),
    }
    both = jax.jit(lambda v: (module.apply(v, images), plain.apply(v, images)))
    ours, theirs = both(variables)
    assert_close(ours, theirs, 3e-6)


def shape_after(shape, *kernels, **options):
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    for kernel, features in kernels:
        weights = jax.ShapeDtypeStruct((*kernel, images.shape[-1], features), jnp.float32)
        conv = functools.partial(conv_general_dilated, dimension_numbers=NHWC, **options)
        images = jax.eval_shape(conv, images, weights)
    return images.shape


def test_the_syllabus_output_sizes():
    plain = {"window_strides": (1, 1), "padding": "VALID"}
    assert shape_after((1, 32, 32, 3), ((5, 5), 6), ((5, 5), 10), **plain) == (1, 24, 24, 10)
    padded = {"window_strides": (1, 1), "padding": ((2, 2), (2, 2))}
    assert shape_after((1, 300, 400, 3), ((5, 5), 1), **padded) == (1, 300, 400, 1)
    strided = {"window_strides": (3, 3), "padding": ((1, 1), (1, 1))}
    assert shape_after((1, 28, 28, 3), ((3, 3), 32), **strided) == (1, 10, 10, 32)


def convolve(image, kernel):
    images = jnp.asarray(image, jnp.float32)[None, :, :, None]
    weights = jnp.asarray(kernel, jnp.float32)[:, :, None, None]
    output = conv_general_dilated(images, weights, (1, 1), "VALID", dimension_numbers=NHWC)
    return np.asarray(output)[0, :, :, 0]


def test_the_syllabus_first_worked_example():
    image = [[0, 1, 0, 1], [0, 1, 0, 1], [1, 1, 1, 1], [0, -2, 0, -2]]
    found = convolve(image, [[-0.5, 1, -0.5]] * 3)
    np.testing.assert_array_equal(found, [[2, -2], [-1, 1]])  # halves are exact


def test_the_syllabus_second_worked_example():
    image = -np.ones((9, 9))
    inner = np.arange(1, 8)
    image[inner, inner] = image[inner, 8 - inner] = 1
    diagonal, cross = np.array([[1, -1, -1], [-1, 1, -1], [-1, -1, 1]]), np.ones((3, 3))
    cross[[0, 1, 1, 2], [1, 0, 2, 1]] = -1
    found = np.round(9 * convolve(image, diagonal / 9)).astype(int)
    np.testing.assert_allclose(9 * convolve(image, diagonal / 9), found, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found[0], [7, -1, 1, 3, 5, -1, 3])  # ninths: 0.77 -0.11 ...
    assert found[3, 3] == 5
    assert round(9 * convolve(image, cross / 9)[3, 3]) == 9
