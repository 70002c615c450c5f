"""Two-dimensional convolution whose gradients stay fast on CPUs.

On CPU, XLA hands a convolution to its fast library only in the plain NHWC x HWIO form. The two
gradients that autodiff writes have other layouts; outside loops the compiler rewrites them, inside
`lax.scan` and `lax.while_loop` it does not, and they run 6 to 8 times slower. Here both gradients
are stated as NHWC x HWIO convolutions. What the fast library refuses is rearranged: convolutions
with few channels are computed several output pixels at a time, those of maps smaller than the
kernel as one dense product (im2col), depthwise ones by shift-and-add. Results equal
`jax.lax.conv_general_dilated` up to float rounding; on other platforms that function is called
unchanged. Reverse mode works to any order, and so does forward over reverse (Hessian-vector
products); forward mode alone (`jax.jvp` of the network) needs a module built with
`conv_general_dilated=jax.lax.conv_general_dilated`.

Pass it to Linen: `nn.Conv(..., conv_general_dilated=convolution.conv_general_dilated)`, or use the
`Conv` of this module.
"""

import contextlib
import contextvars
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Shaped

Pairs = tuple[tuple[int, int], tuple[int, int]]  # pixels before and after each axis
NHWC = ("NHWC", "HWIO", "NHWC")
NARROW_CHANNELS = 16  # with at most so many channels on both sides the library refuses
# Small images, not maps, are cheaper to rearrange than the gradient of what became of them.
FEW_CHANNELS, FEW_PIXELS = 4, 48 * 48
_rearranges = contextvars.ContextVar("rearranges", default=True)


@contextlib.contextmanager
def as_asked() -> Iterator[None]:
    """Programs traced inside hold the convolutions that were asked for, so that one can count."""
    token = _rearranges.set(False)
    try:
        yield
    finally:
        _rearranges.reset(token)


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    **options: Any,
) -> jax.Array:
    """Drop-in for `jax.lax.conv_general_dilated`, fast under `grad` inside loops on CPU.

    The fast path is for images [n h w c] and kernels [kernel_height kernel_width c features]
    without dilation, and without groups or with one a channel; it takes a `precision` as a hint
    only. Everything else goes to lax. The result is [n h w features].
    """
    dilated = any(d != 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    layout = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    fast = (
        _rearranges.get()
        and jax.default_backend() == "cpu"
        and lhs.ndim == 4
        and layout == lax.conv_dimension_numbers(lhs.shape, rhs.shape, NHWC)
        and not dilated
        and options.keys() <= {"precision"}
    )
    depthwise = feature_group_count == lhs.shape[-1] == rhs.shape[-1] > 1
    if fast and (depthwise or feature_group_count == 1):
        strides = (window_strides[0], window_strides[1])
        if isinstance(padding, str):
            padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], strides, padding)
        (top, bottom), (left, right) = padding
        pads = ((top, bottom), (left, right))
        sides = zip(lhs.shape[1:3], pads, rhs.shape[:2], strides, strict=True)
        outputs = [(side + sum(pad) - k) // stride + 1 for side, pad, k, stride in sides]
        if min(outputs) >= 1 and depthwise:
            return _shift_and_add(lhs, rhs, strides, pads, outputs)
        if min(outputs) >= 1:
            sides = zip(lhs.shape[1:3], outputs, rhs.shape[:2], strict=True)
            if any(min(side, output) < kernel for side, output, kernel in sides):
                return _im2col(lhs, rhs, strides, pads, outputs)
            return _conv(lhs, rhs, strides, pads)
    return lax.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation,
        rhs_dilation,
        dimension_numbers,
        feature_group_count,
        **options,
    )


def _forward(x, w, strides: tuple[int, int], pads: Pairs) -> jax.Array:
    """The convolution; with few channels, neighbouring output pixels become extra features."""
    kernel_height, kernel_width, channels, features = w.shape
    n, height, width, _ = x.shape
    out_height = height + sum(pads[0]) - kernel_height + 1
    out_width = width + sum(pads[1]) - kernel_width + 1
    larger = out_height > height or out_width > width
    if strides == (1, 1) and larger and min(*pads[0], *pads[1]) >= 0:
        # An output larger than its input is refused too. The barrier keeps the padding apart.
        x = lax.optimization_barrier(jnp.pad(x, ((0, 0), *pads, (0, 0))))
        pads = ((0, 0), (0, 0))
    if strides != (1, 1) or max(channels, features) > NARROW_CHANNELS:
        return lax.conv_general_dilated(x, w, strides, pads, dimension_numbers=NHWC)
    pixels = NARROW_CHANNELS // features + 1  # so many lift it over the library's limit
    shifted = [
        jnp.pad(w, ((0, 0), (shift, pixels - 1 - shift), (0, 0), (0, 0))) for shift in range(pixels)
    ]
    extra = -out_width % pixels
    wide = lax.conv_general_dilated(
        x,
        jnp.concatenate(shifted, axis=-1),
        (1, pixels),
        (pads[0], (pads[1][0], pads[1][1] + extra)),
        dimension_numbers=NHWC,
    )
    return wide.reshape(n, out_height, out_width + extra, features)[:, :, :out_width]


def _conv_forward(x, w, strides: tuple[int, int], pads: Pairs):
    return _forward(x, w, strides, pads), (x, w)


def _conv_backward(strides: tuple[int, int], pads: Pairs, residuals, dy):
    x, w = residuals
    # That of the images is the flipped kernel over the spread-out `dy`.
    flipped = jnp.flip(w, (0, 1)).transpose(0, 1, 3, 2)
    around = []
    for axis, ((low, _), stride) in enumerate(zip(pads, strides, strict=True), start=1):
        reach = (dy.shape[axis] - 1) * stride
        around.append((w.shape[axis - 1] - 1 - low, x.shape[axis] + low - reach - 1))
    if strides == (1, 1):
        dx = _forward(dy, flipped, strides, (around[0], around[1]))
    else:
        dx = lax.conv_general_dilated(
            dy, flipped, (1, 1), around, lhs_dilation=strides, dimension_numbers=NHWC
        )
    return dx, _kernel_gradient(x, dy, w.shape, strides, pads)


_conv = jax.custom_vjp(_forward, nondiff_argnums=(2, 3))
_conv.defvjp(_conv_forward, _conv_backward)


def _kernel_gradient(x, dy, shape: tuple[int, ...], strides: tuple[int, int], pads: Pairs):
    """Gradient with respect to the kernel.

    Where features are few, neighbouring columns of `dy` count as features of a wider kernel, whose
    gradient is folded back.
    """
    n, rows, columns, features = dy.shape
    height, width, channels = x.shape[1:]
    few = channels <= FEW_CHANNELS and height * width <= FEW_PIXELS
    wanted = NARROW_CHANNELS // features if few else -(-NARROW_CHANNELS // features)
    divisors = (d for d in range(wanted, min(columns, 4 * wanted) + 1) if columns % d == 0)
    pixels = next(divisors, 1) if wanted > 1 else 1
    sides = (shape[0], shape[1] + (pixels - 1) * strides[1])
    dy = dy.reshape(n, rows, columns // pixels, pixels * features)
    strides_of_dy = (strides[0], strides[1] * pixels)
    (top, _), (left, _) = pads
    bottom = sides[0] + (rows - 1) * strides_of_dy[0] - height - top
    right = sides[1] + (columns // pixels - 1) * strides_of_dy[1] - width - left
    around = ((top, bottom), (left, right))
    if few:
        gradient = _gradient_of_few(x, dy, sides[1], strides_of_dy, around)
    else:
        gradient = _gradient_of_many(x, dy, strides_of_dy, around)
    gradient = gradient.reshape(*sides, channels, pixels, features)
    starts = range(0, pixels * strides[1], strides[1])
    shifted = (gradient[:, s : s + shape[1], :, i] for i, s in enumerate(starts))
    return functools.reduce(jnp.add, shifted)


def _gradient_of_few(x, dy, kernel_width: int, strides: tuple[int, int], pads: Pairs):
    """The kernel gradient for few channels: `dy` as it is, and a copy of `x` a kernel column.

    Examples are one of the two spatial axes, and columns are the channels that are summed over.
    """
    around = ((0, 0, 0), (*pads[0], 0), (*pads[1], 0), (0, 0, 0))
    x = lax.pad(x, jnp.zeros((), x.dtype), around)
    reach = (dy.shape[2] - 1) * strides[1] + 1
    shifted = [
        x[:, :, start : start + reach : strides[1], channel]
        for start in range(kernel_width)
        for channel in range(x.shape[-1])
    ]
    gradient = lax.conv_general_dilated(
        jnp.stack(shifted),
        dy,
        (1, 1),
        "VALID",
        rhs_dilation=(1, strides[0]),
        dimension_numbers=NHWC,
    )  # [(column channel) 1 row features]
    return gradient[:, 0].transpose(1, 0, 2)


def _gradient_of_many(x, dy, strides: tuple[int, int], pads: Pairs):
    """The kernel gradient for many channels: images and `dy` with examples as the channels.

    Each row of the images becomes one line of (column, channel), so that the output line holds
    every (kernel column, channel) pair: a long line, which the library computes in tall tiles.
    """
    n, height, width, channels = x.shape
    gradient = lax.conv_general_dilated(
        x.transpose(1, 2, 3, 0).reshape(1, height, width * channels, n),
        dy.transpose(1, 2, 0, 3),
        (1, 1),
        (pads[0], (pads[1][0] * channels, pads[1][1] * channels)),
        rhs_dilation=(strides[0], strides[1] * channels),
        dimension_numbers=NHWC,
    )  # [1 row (column channel) features]
    return gradient[0]


def _im2col(x, w, strides: tuple[int, int], pads: Pairs, outputs: Sequence[int]) -> jax.Array:
    """A convolution as one dense product of all windows, side by side, with the kernel.

    The fast library refuses maps smaller than the kernel, whose windows are few.
    """
    windows = jnp.concatenate(_shifted(x, w, strides, pads, outputs), -1)
    values = windows.reshape(-1, windows.shape[-1]) @ w.reshape(-1, w.shape[-1])
    return values.reshape(-1, *outputs, w.shape[-1])


def _shift_and_add(
    x, w, strides: tuple[int, int], pads: Pairs, outputs: Sequence[int]
) -> jax.Array:
    """A convolution of each channel with its own kernel: a weighted sum of shifted images.

    The fast library refuses groups; this is one fused loop along the channels.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)  # of the sum, as in a convolution
    shifted = _shifted(x.astype(dtype), w, strides, pads, outputs)
    weights = w.astype(dtype).reshape(-1, 1, 1, 1, w.shape[-1])
    terms = (image * weights[tap] for tap, image in enumerate(shifted))
    return functools.reduce(jnp.add, terms).astype(x.dtype)


def _shifted(
    x, w, strides: tuple[int, int], pads: Pairs, outputs: Sequence[int]
) -> list[jax.Array]:
    around = ((0, 0, 0), (*pads[0], 0), (*pads[1], 0), (0, 0, 0))
    x = lax.pad(x, jnp.zeros((), x.dtype), around)
    return shifted_maps(x, w.shape[:2], outputs, strides)


def shifted_maps(
    maps: Shaped[Array, "n *space c"],
    sides: Sequence[int],
    counts: Sequence[int],
    strides: Sequence[int],
) -> list[jax.Array]:
    """Maps [n *counts c] as each place of a window sees them, places in reading order."""
    shifted = []
    for corner in itertools.product(*map(range, sides)):
        starts = zip(corner, counts, strides, strict=True)
        spans = (slice(i, i + (count - 1) * step + 1, step) for i, count, step in starts)
        shifted.append(maps[(slice(None), *spans)])
    return shifted


Conv = functools.partial(nn.Conv, conv_general_dilated=conv_general_dilated)
