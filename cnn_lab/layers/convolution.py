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
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

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

    The fast path is for NHWC images and HWIO kernels without dilation, and without groups or with
    one a channel; everything else goes to lax.

    Args:
        lhs: images [n h w c].
        rhs: kernel [kernel_height kernel_width c features].
        window_strides: (vertical, horizontal).
        padding: `SAME`, `VALID` or ((top, bottom), (left, right)) in pixels.
        lhs_dilation: as in lax.
        rhs_dilation: as in lax.
        dimension_numbers: as in lax.
        feature_group_count: as in lax.
        **options: as in lax; the fast path takes a `precision` as a hint only.

    Returns:
        [n h w features].
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
        outputs = _output_sides(lhs.shape, rhs.shape, strides, pads)
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


def _output_sides(
    images: Sequence[int], kernel: Sequence[int], strides: Sequence[int], pads: Pairs
) -> tuple[int, int]:
    rows, columns = (
        (images[1 + axis] + sum(pads[axis]) - kernel[axis]) // strides[axis] + 1 for axis in (0, 1)
    )
    return rows, columns


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x: jax.Array, w: jax.Array, strides: tuple[int, int], pads: Pairs) -> jax.Array:
    return _forward(x, w, strides, pads)


def _conv_forward(x, w, strides: tuple[int, int], pads: Pairs):
    return _forward(x, w, strides, pads), (x, w)


def _conv_backward(strides: tuple[int, int], pads: Pairs, residuals, dy):
    x, w = residuals
    dx = _input_gradient(dy, w, x.shape, strides, pads)
    return dx, _kernel_gradient(x, dy, w.shape, strides, pads)


_conv.defvjp(_conv_forward, _conv_backward)


def _forward(x, w, strides: tuple[int, int], pads: Pairs) -> jax.Array:
    if strides == (1, 1):
        return _widened(x, w, pads)
    return lax.conv_general_dilated(x, w, strides, pads, dimension_numbers=NHWC)


def _input_gradient(dy, w, shape: tuple[int, ...], strides: tuple[int, int], pads: Pairs):
    """Gradient with respect to the images: the flipped kernel over the spread-out `dy`."""
    flipped = jnp.flip(w, (0, 1)).transpose(0, 1, 3, 2)
    around = []
    for axis, ((low, _), stride) in enumerate(zip(pads, strides, strict=True)):
        reach = (dy.shape[1 + axis] - 1) * stride
        around.append((w.shape[axis] - 1 - low, shape[1 + axis] + low - reach - 1))
    around = (around[0], around[1])
    if strides == (1, 1):
        return _widened(dy, flipped, around)
    return lax.conv_general_dilated(
        dy, flipped, (1, 1), around, lhs_dilation=strides, dimension_numbers=NHWC
    )


def _kernel_gradient(x, dy, shape: tuple[int, ...], strides: tuple[int, int], pads: Pairs):
    """Gradient with respect to the kernel.

    Where features are few, neighbouring columns of `dy` count as features of a wider kernel, whose
    gradient is folded back.
    """
    n, rows, columns, features = dy.shape
    channels = shape[2]
    few = channels <= FEW_CHANNELS and x.shape[1] * x.shape[2] <= FEW_PIXELS
    gradient_of = _gradient_of_few if few else _gradient_of_many
    if few:
        pixels = _divisor(columns, minimum=max(1, NARROW_CHANNELS // features))
    else:
        pixels = _divisor(columns, minimum=-(-NARROW_CHANNELS // features))
    wide = (shape[0], shape[1] + (pixels - 1) * strides[1])
    dy = dy.reshape(n, rows, columns // pixels, pixels * features)
    gradient = gradient_of(x, dy, wide, (strides[0], strides[1] * pixels), pads)
    gradient = gradient.reshape(*wide, channels, pixels, features)
    starts = range(0, pixels * strides[1], strides[1])
    shifted = (gradient[:, s : s + shape[1], :, i] for i, s in enumerate(starts))
    return functools.reduce(jnp.add, shifted)


def _gradient_of_few(x, dy, kernel: tuple[int, int], strides: tuple[int, int], pads: Pairs):
    """The kernel gradient for few channels: `dy` as it is, and a copy of `x` a kernel column.

    Examples are one of the two spatial axes, and columns are the channels that are summed over.
    """
    (top, _), (left, _) = pads
    _, rows, columns, _ = dy.shape
    _, height, width, channels = x.shape
    bottom = kernel[0] + (rows - 1) * strides[0] - height - top
    right = kernel[1] + (columns - 1) * strides[1] - width - left
    x = lax.pad(
        x, jnp.zeros((), x.dtype), ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0))
    )
    reach = (columns - 1) * strides[1] + 1
    shifted = [
        x[:, :, start : start + reach : strides[1], channel]
        for start in range(kernel[1])
        for channel in range(channels)
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


def _gradient_of_many(x, dy, kernel: tuple[int, int], strides: tuple[int, int], pads: Pairs):
    """The kernel gradient for many channels: images and `dy` with examples as the channels.

    Each row of the images becomes one line of (column, channel), so that the output line holds
    every (kernel column, channel) pair: a long line, which the library computes in tall tiles.
    """
    (top, _), (left, _) = pads
    _, rows, columns, _ = dy.shape
    n, height, width, channels = x.shape
    bottom = kernel[0] + (rows - 1) * strides[0] - height - top
    right = kernel[1] + (columns - 1) * strides[1] - width - left
    lines = x.transpose(1, 2, 3, 0).reshape(1, height, width * channels, n)
    gradient = lax.conv_general_dilated(
        lines,
        dy.transpose(1, 2, 0, 3),
        (1, 1),
        ((top, bottom), (left * channels, right * channels)),
        rhs_dilation=(strides[0], strides[1] * channels),
        dimension_numbers=NHWC,
    )  # [1 row (column channel) features]
    return gradient[0]


def _divisor(number: int, minimum: int) -> int:
    """The smallest divisor of `number` from `minimum` on, or 1 where that is no small one."""
    if minimum == 1:
        return 1
    return next((d for d in range(minimum, min(number, 4 * minimum) + 1) if number % d == 0), 1)


def _widened(x, w, pads: Pairs) -> jax.Array:
    """A stride-1 convolution, several neighbouring output pixels computed as extra features."""
    kernel_height, kernel_width, channels, features = w.shape
    n, height, width, _ = x.shape
    out_height = height + sum(pads[0]) - kernel_height + 1
    out_width = width + sum(pads[1]) - kernel_width + 1
    if (out_height > height or out_width > width) and min(*pads[0], *pads[1]) >= 0:
        # An output larger than its input is refused too. The barrier keeps the padding apart.
        x = lax.optimization_barrier(jnp.pad(x, ((0, 0), *pads, (0, 0))))
        pads = ((0, 0), (0, 0))
    pixels = _pixels_at_once(channels, features)
    if pixels == 1:
        return lax.conv_general_dilated(x, w, (1, 1), pads, dimension_numbers=NHWC)
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


def _pixels_at_once(channels: int, features: int) -> int:
    """Number of output pixels at once that lift a narrow convolution over the library's limit."""
    if channels > NARROW_CHANNELS or features > NARROW_CHANNELS:
        return 1
    return NARROW_CHANNELS // features + 1


def _im2col(x, w, strides: tuple[int, int], pads: Pairs, outputs: tuple[int, int]) -> jax.Array:
    """A convolution as one dense product of all windows, side by side, with the kernel.

    The fast library refuses maps smaller than the kernel, whose windows are few.
    """
    windows = jnp.concatenate(_shifted_images(x, w, strides, pads, outputs), -1)
    values = windows.reshape(-1, windows.shape[-1]) @ w.reshape(-1, w.shape[-1])
    return values.reshape(-1, *outputs, w.shape[-1])


def _shift_and_add(
    x, w, strides: tuple[int, int], pads: Pairs, outputs: tuple[int, int]
) -> jax.Array:
    """A convolution of each channel with its own kernel: a weighted sum of shifted images.

    The fast library refuses groups; this is one fused loop along the channels.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)  # of the sum, as in a convolution
    shifted = _shifted_images(x.astype(dtype), w, strides, pads, outputs)
    weights = w.astype(dtype).reshape(-1, 1, 1, 1, w.shape[-1])
    terms = (image * weights[tap] for tap, image in enumerate(shifted))
    return functools.reduce(jnp.add, terms).astype(x.dtype)


def _shifted_images(
    x, w, strides: tuple[int, int], pads: Pairs, outputs: tuple[int, int]
) -> list[jax.Array]:
    """Images [n output_rows output_columns c] as each weight of the kernel sees them, by rows."""
    zero = jnp.zeros((), x.dtype)
    x = lax.pad(x, zero, ((0, 0, 0), (*pads[0], 0), (*pads[1], 0), (0, 0, 0)))
    reach_down, reach_right = ((o - 1) * s + 1 for o, s in zip(outputs, strides, strict=True))
    return [
        x[:, row : row + reach_down : strides[0], column : column + reach_right : strides[1]]
        for row in range(w.shape[0])
        for column in range(w.shape[1])
    ]


Conv = functools.partial(nn.Conv, conv_general_dilated=conv_general_dilated)
