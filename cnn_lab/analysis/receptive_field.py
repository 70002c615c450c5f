"""Receptive fields: the pixels that the values of an array depend on, read off a traced program.

Positions are affine in the indices of an array: each index moves a box of pixels by a fixed jump.
Convolutions and windows widen the box and lengthen the jumps; branches that meet give the smallest
box around both; what is not affine, such as flattening, widens the box by the whole extent. Borders
are left out of account, so that a field may exceed the image (Araujo, Norris, Sim 2019, "Computing
receptive fields of convolutional neural networks", Distill).
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any

Vector = tuple[Fraction, ...]  # an entry per axis of the images' space
Scope = tuple[str, ...]
CONTROL = ("cond", "scan", "while")
# The parameters by which equations hold inner programs, besides the branches of a conditional.
PROGRAM_NAMES = ("jaxpr", "call_jaxpr", "fun_jaxpr", "cond_jaxpr", "body_jaxpr")


@dataclasses.dataclass(frozen=True)
class Field:
    """The value at index i depends on pixels first + shift to last + shift, shift = i @ jumps.

    Attributes:
        first: pixel of the box at index 0, which may lie in the padding.
        last: likewise, still in the box.
        jumps: pixels that the box moves with each index; one vector per dimension of the array.
    """

    first: Vector
    last: Vector
    jumps: tuple[Vector, ...]

    @property
    def size(self) -> tuple[int, ...]:
        """Pixels of the box along each axis."""
        sides = (b - a + 1 for a, b in zip(self.first, self.last, strict=True))
        return tuple(math.ceil(Fraction(int(s.numerator), int(s.denominator))) for s in sides)

    def reach(self, dimension: int, low: Fraction | int, high: Fraction | int) -> "Field":
        """The box around all values from `low` to `high` further along a dimension."""
        jump = self.jumps[dimension]
        first = (a + min(low * j, high * j) for a, j in zip(self.first, jump, strict=True))
        last = (b + max(low * j, high * j) for b, j in zip(self.last, jump, strict=True))
        return Field(tuple(first), tuple(last), self.jumps)

    def over(self, dimensions: Iterable[int], shape: Sequence[int]) -> "Field":
        """The box around all values along some dimensions of an array of that shape."""
        field = self
        for dimension in dimensions:
            field = field.reach(dimension, 0, shape[dimension] - 1)
        return field

    def shaped(self, jumps: Sequence[Vector]) -> "Field":
        """The same box over an array of other dimensions."""
        return Field(self.first, self.last, tuple(jumps))

    @property
    def still(self) -> Vector:
        """The jump of a dimension along which every value depends on the same pixels."""
        return (Fraction(0),) * len(self.first)


Visit = Callable[[Scope, Any, int, list[Field | None]], None]


def field_of_images(num_axes: int) -> Field:
    """Every pixel depends on itself: the field of images [n *space c]."""
    still = (Fraction(0),) * num_axes
    axes = range(num_axes)
    steps = (tuple(Fraction(int(a == axis)) for a in axes) for axis in axes)
    return Field(still, still, (still, *steps, still))


def walk(
    program: Any,
    fields: Sequence[Field | None],
    visit: Visit,
    scope: Scope = (),
    times: int = 1,
) -> list[Field | None]:
    """Visits every equation that holds no inner program, in order, and returns the outputs' fields.

    The branches of a conditional are all visited, and the body of a loop without a known number of
    rounds once. Fields are those of the program's inputs, None where they do not depend on the
    images; `visit` is called with the named scopes around an equation, the equation, how often it
    runs, and the fields of its outputs.
    """
    known: dict[Any, Field | None] = dict(zip(program.invars, fields, strict=True))

    def fields_of(variables: Sequence[Any]) -> list[Field | None]:
        # Literals, which have values, cannot be looked up.
        return [None if hasattr(each, "val") else known.get(each) for each in variables]

    for equation in program.eqns:
        names = str(equation.source_info.name_stack)
        here = (*scope, *names.split("/")) if names else scope
        incoming = fields_of(equation.invars)
        inner, name = _programs(equation), equation.primitive.name
        if inner and name not in CONTROL:
            outgoing = walk(inner[0], incoming, visit, here, times)
        else:
            rounds = times * equation.params.get("length", 1)
            for each in inner:
                walk(each, [None] * len(each.invars), visit, here, rounds)
            outgoing: list[Field | None] = [None] * len(equation.outvars)
            if any(field is not None for field in incoming):
                rule = _everything if inner else RULES.get(name, _same_shape)
                outgoing = list(rule(equation, incoming))
            if not inner:
                visit(here, equation, times, outgoing)
        known.update(zip(equation.outvars, outgoing, strict=True))
    return fields_of(program.outvars)


def _programs(equation: Any) -> list[Any]:
    """Programs inside an equation that run with it; a reduction's operation is none."""
    parameters, name = equation.params, equation.primitive.name
    found = [parameters[key] for key in PROGRAM_NAMES if parameters.get(key) is not None]
    found += parameters.get("branches", ())
    opened = [getattr(each, "jaxpr", each) for each in found]
    if name in CONTROL:
        return opened
    return [each for each in opened if len(each.invars) == len(equation.invars)][:1]


def _everything(equation, fields):
    """Every output depends on all of every input: the rule for what is not known."""
    inputs = [(field, v.aval.shape) for field, v in zip(fields, equation.invars, strict=True)]
    box = _union([f.over(range(len(s)), s).shaped(()) for f, s in inputs if f is not None])
    return [box.shaped([box.still] * len(v.aval.shape)) for v in equation.outvars]


def _union(fields: Sequence[Field]) -> Field:
    first = tuple(map(min, zip(*(field.first for field in fields), strict=True)))
    last = tuple(map(max, zip(*(field.last for field in fields), strict=True)))
    jumps = (max(each, key=sum) for each in zip(*(f.jumps for f in fields), strict=True))
    return Field(first, last, tuple(jumps))


def _same_shape(equation, fields):
    seen = [v for v, field in zip(equation.invars, fields, strict=True) if field is not None]
    if len({variable.aval.shape for variable in (*seen, *equation.outvars)}) > 1:
        return _everything(equation, fields)
    if len(equation.outvars) == len(fields) > 1:  # such as a barrier
        return fields
    return [_union([field for field in fields if field is not None])] * len(equation.outvars)


def _windowed(field, dimension, side, stride, padding, spread, dilation) -> tuple[Field, Vector]:
    """A window along one dimension: the wider field, and the jump from window to window."""
    reach = spread * (side - 1) // dilation  # further values of the array under one window
    start = -Fraction(padding[0]) / dilation
    jump = tuple(j * stride / dilation for j in field.jumps[dimension])
    return field.reach(dimension, start, start + reach), jump


def _convolution(equation, fields):
    field, parameters = fields[0], equation.params
    if field is None or fields[1] is not None:
        return _everything(equation, fields)
    numbers = parameters["dimension_numbers"]
    jumps = [field.still] * len(field.jumps)
    (examples, channels, *sources), (out_examples, _, *targets) = numbers.lhs_spec, numbers.out_spec
    field = field.over([channels], equation.invars[0].aval.shape)
    jumps[out_examples] = field.jumps[examples]
    sides = [equation.invars[1].aval.shape[axis] for axis in numbers.rhs_spec[2:]]
    names = ("window_strides", "padding", "rhs_dilation", "lhs_dilation")
    windows = zip(sides, *(parameters[name] for name in names), strict=True)
    for source, target, window in zip(sources, targets, windows, strict=True):
        field, jumps[target] = _windowed(field, source, *window)
    return [field.shaped(jumps)]


def _reduce_window(equation, fields):
    field, jumps = fields[0], []
    if field is None or len(fields) != 1:
        return _everything(equation, fields)
    names = ("window_dimensions", "window_strides", "padding", "window_dilation", "base_dilation")
    windows = zip(*(equation.params[name] for name in names), strict=True)
    for dimension, window in enumerate(windows):
        field, jump = _windowed(field, dimension, *window)
        jumps.append(jump)
    return [field.shaped(jumps)]


def _reduce(equation, fields):
    axes = equation.params["axes" if "axes" in equation.params else "dimensions"]
    field = fields[0].over(axes, equation.invars[0].aval.shape)
    kept = [jump for axis, jump in enumerate(field.jumps) if axis not in axes]
    return [field.shaped(kept)] * len(equation.outvars)


def _cumulative(equation, fields):
    axis = equation.params["axis"]
    field = fields[0].over([axis], equation.invars[0].aval.shape)
    return [field.shaped([field.still if a == axis else j for a, j in enumerate(field.jumps)])]


def _broadcast(equation, fields):
    field = fields[0]
    jumps = [field.still] * len(equation.params["shape"])
    for source, target in enumerate(equation.params["broadcast_dimensions"]):
        if equation.invars[0].aval.shape[source] == equation.params["shape"][target]:
            jumps[target] = field.jumps[source]
    return [field.shaped(jumps)]


def _reshape(equation, fields):
    old, new = equation.invars[0].aval.shape, list(equation.params["new_sizes"])
    field, jumps, position = fields[0], [], 0
    while position < len(old) or len(jumps) < len(new):
        # The shortest runs of dimensions on both sides that hold equally many values.
        begin, start = position, len(jumps)
        position, end = position + (position < len(old)), start + (start < len(new))
        while math.prod(old[begin:position]) != math.prod(new[start:end]):
            if math.prod(old[begin:position]) < math.prod(new[start:end]):
                position += 1
            else:
                end += 1
        field, jump = _merged(field, old, range(begin, position))
        for dimension in range(start, end):
            inner = math.prod(new[dimension + 1 : end])
            jumps.append(tuple(j * inner for j in jump))
    return [field.shaped(jumps)]


def _merged(field: Field, shape: Sequence[int], run: range) -> tuple[Field, Vector]:
    """Several dimensions as one: the jump of the last, if the others are whole rounds of it."""
    run_of_more = [dimension for dimension in run if shape[dimension] > 1]
    jump, inner = field.still, 1
    for dimension in reversed(run_of_more):
        outer = field.jumps[dimension]
        if inner == 1 or outer == tuple(j * inner for j in jump):
            jump = outer if inner == 1 else jump
        elif not any(jump):  # repeated pixels: the box moves a pixel every `inner` values
            jump = tuple(j / inner for j in outer)
        else:
            return field.over(run_of_more, shape), field.still
        inner *= shape[dimension]
    return field, jump


def _transpose(equation, fields):
    return [fields[0].shaped([fields[0].jumps[d] for d in equation.params["permutation"]])]


def _slice(equation, fields):
    field, jumps = fields[0], []
    strides = equation.params["strides"] or (1,) * len(field.jumps)
    for dimension, start in enumerate(equation.params["start_indices"]):
        field = field.reach(dimension, start, start)
        jumps.append(tuple(j * strides[dimension] for j in field.jumps[dimension]))
    return [field.shaped(jumps)]


def _pad(equation, fields):
    field, jumps = fields[0], []
    if field is None or fields[1] is not None:
        return _everything(equation, fields)
    for dimension, (low, _, interior) in enumerate(equation.params["padding_config"]):
        start = -Fraction(low) / (interior + 1)
        field = field.reach(dimension, start, start)
        jumps.append(tuple(j / (interior + 1) for j in field.jumps[dimension]))
    return [field.shaped(jumps)]


def _reverse(equation, fields):
    field, jumps = fields[0], list(fields[0].jumps)
    for dimension in equation.params["dimensions"]:
        end = equation.invars[0].aval.shape[dimension] - 1
        field = field.reach(dimension, end, end)
        jumps[dimension] = tuple(-j for j in jumps[dimension])
    return [field.shaped(jumps)]


def _concatenate(equation, fields):
    along = equation.params["dimension"]
    if any(any(field.jumps[along]) for field in fields if field is not None):
        return _everything(equation, fields)
    return [_union([field for field in fields if field is not None])]


def _product(equation, fields):
    (contracted, batch), outputs, boxes = equation.params["dimension_numbers"], [], []
    for side, field in enumerate(fields):
        shape = equation.invars[side].aval.shape
        rest = [d for d in range(len(shape)) if d not in (*contracted[side], *batch[side])]
        if field is not None:
            field = field.over(contracted[side], shape)
            boxes.append(field.shaped([field.jumps[d] for d in batch[side]]))
        still = next(f for f in fields if f is not None).still
        outputs += [still if field is None else field.jumps[d] for d in rest]
    box = _union(boxes)
    return [box.shaped([*box.jumps, *outputs])]


_KINDS: dict[Callable[[Any, Sequence[Any]], Sequence[Field | None]], str] = {
    _broadcast: "broadcast_in_dim",
    _concatenate: "concatenate",
    _convolution: "conv_general_dilated",
    _cumulative: "cumlogsumexp cummax cummin cumprod cumsum",
    _pad: "pad",
    _product: "dot_general",
    _reduce: "argmax argmin reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum "
    "squeeze",
    _reduce_window: "reduce_window_max reduce_window_min reduce_window_sum",
    _reshape: "reshape",
    _reverse: "rev",
    _slice: "slice",
    _transpose: "transpose",
    # These keep the shape, but not the places.
    _everything: "dynamic_update_slice fft gather scatter scatter-add sort",
}
RULES = {name: rule for rule, names in _KINDS.items() for name in names.split()}
