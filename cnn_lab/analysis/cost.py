"""Cost of every layer of a network: parameters, multiply-accumulates, memory, receptive field.

Programs are traced, never run. One multiply-accumulate (MAC) counts as one; convolutions and dense
products are counted, as published numbers do, and normalisation, activations and pooling are not. A
transposed convolution counts every weight once for each pixel of its input. Where a layer is
applied several times, as in a recurrent net, every time counts.
"""

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_lab.analysis.receptive_field import Field, Scope, field_of_images, walk
from cnn_lab.core import trees
from cnn_lab.core.arrays import Tree
from cnn_lab.layers.convolution import as_asked
from cnn_lab.layers.scopes import is_call

# Scopes of functions that are layers of their own in a table; their products are no weights'.
POOLINGS = frozenset(
    {"max_pool", "average_pool", "lp_pool", "adaptive_average_pool"}
    | {"global_average_pool", "global_max_pool", "stochastic_pool", "local_response_norm"}
)


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer on one example.

    Attributes:
        path: of its parameters; of the module around it for a function.
        kind: name of its class or function.
        output_shape: without the batch; None for a layer that only training uses.
        num_parameters: of its own, without those of the layers inside.
        macs: multiply-accumulates.
        receptive_field: pixels of the image along each axis that an output depends on, borders left
            aside; None without axes of space, where that is all of them.
        stride: pixels of the image from output to output along each axis.
        activation_bytes: of its output.
    """

    path: str
    kind: str
    output_shape: tuple[int, ...] | None
    num_parameters: int
    macs: int
    receptive_field: tuple[int, ...] | None
    stride: tuple[float, ...] | None
    activation_bytes: int


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost of a network on one example.

    Attributes:
        layers: in order of evaluation; those that only training uses come last.
        variables: shapes of the variables.
    """

    layers: tuple[Layer, ...]
    variables: Tree

    @property
    def num_parameters(self) -> int:
        """Trainable values."""
        return trees.count(self.variables["params"])

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one evaluation."""
        return sum(layer.macs for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        """Outputs of all layers."""
        return sum(layer.activation_bytes for layer in self.layers)


@dataclasses.dataclass
class _Tally:
    kind: str
    macs: int = 0
    shape: tuple[int, ...] | None = None
    num_bytes: int = 0
    field: Field | None = None


def cost_of(module: nn.Module, input_shape: Sequence[int], *, train: bool = False) -> Cost:
    """Traces a model on one example and adds up its layers.

    Args:
        module: called with inputs [1 *input_shape] and `train`.
        input_shape: (*space, c) of one example.
        train: as in training, with the auxiliary heads; the pass forward alone.
    """
    modules = _Modules()
    inputs = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    with as_asked():
        with nn.intercept_methods(modules.note):
            variables = jax.eval_shape(
                lambda x: module.init(jax.random.key(0), x, train=False), inputs
            )

        def forward(variables: Tree, x: jax.Array) -> Any:
            if not train:
                return module.apply(variables, x, train=False)
            rngs, changing = {"dropout": jax.random.key(0)}, [*variables.keys() - {"params"}]
            return module.apply(variables, x, train=True, rngs=rngs, mutable=changing)

        with nn.intercept_methods(modules.note):
            traced = jax.make_jaxpr(forward)(variables, inputs)
    fields: list[Field | None] = [None] * len(traced.jaxpr.invars)
    fields[-1] = field_of_images(len(input_shape) - 1)
    owned = _owned(variables["params"])
    tallies = _tallies(traced.jaxpr, fields, modules, owned)
    for path in owned:
        tallies.setdefault((path, "", 0), _Tally(modules.kind(path)))
    layers = (
        _layer(path, tally, owned.get(path, 0) if not function else 0, len(input_shape))
        for (path, function, _), tally in tallies.items()
    )
    return Cost(tuple(layers), variables)


def _tallies(
    program: Any, fields: list[Field | None], modules: "_Modules", owned: dict[Scope, int]
) -> dict[tuple[Scope, str, int], _Tally]:
    """Tallies of the layers by path, function within it, and number of the function's call."""
    tallies: dict[tuple[Scope, str, int], _Tally] = {}
    calls: collections.Counter[tuple[Scope, str]] = collections.Counter()

    def visit(scope: Scope, equation: Any, times: int, outputs: list[Field | None]) -> None:
        path, function = modules.locate(scope)
        calls[path, function] += bool(function) and is_call(equation, function)
        macs = 0 if function else macs_of(equation) * times
        key = (path, function, calls[path, function])
        if not (macs or function or path in owned or key in tallies):
            return
        tally = tallies.setdefault(key, _Tally(function or modules.kind(path)))
        output = equation.outvars[0].aval
        tally.macs += macs
        tally.shape, tally.field = output.shape, outputs[0]
        tally.num_bytes = math.prod(output.shape) * output.dtype.itemsize

    walk(program, fields, visit)
    return tallies


def macs_of(equation: Any) -> int:
    """Multiply-accumulates of one equation: of products and convolutions, 0 for others."""
    shapes = [variable.aval.shape for variable in equation.invars]
    output = equation.outvars[0].aval.shape
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return math.prod(output) * math.prod(shapes[0][d] for d in contracted)
    if equation.primitive.name == "conv_general_dilated":
        numbers = equation.params["dimension_numbers"]
        pixels, spec = output, numbers.out_spec
        if any(d > 1 for d in equation.params["lhs_dilation"]):
            pixels, spec = shapes[0], numbers.lhs_spec
        return math.prod(pixels[d] for d in (spec[0], *spec[2:])) * math.prod(shapes[1])
    return 0


def _owned(params: Tree) -> dict[Scope, int]:
    """Number of values by path of the module that holds them."""
    counts: dict[Scope, int] = {}
    for path, leaf in trees.flatten(params).items():
        module = tuple(path.split("/")[:-1])
        counts[module] = counts.get(module, 0) + math.prod(leaf.shape)
    return counts


def _layer(path: Scope, tally: _Tally, num_parameters: int, rank: int) -> Layer:
    shape = None if tally.shape is None else tally.shape[1:]
    field = tally.field if shape is not None and len(shape) == rank > 1 else None
    return Layer(
        path="/".join(path),
        kind=tally.kind,
        output_shape=shape,
        num_parameters=num_parameters,
        macs=tally.macs,
        receptive_field=None if field is None else field.size,
        stride=None
        if field is None
        else tuple(float(field.jumps[1 + a][a]) for a in range(rank - 1)),
        activation_bytes=tally.num_bytes,
    )


class _Modules:
    """Modules, with their classes, that the named scopes of a program stand for."""

    def __init__(self):
        self._names: list[str] = []
        self._paths: dict[Scope, Scope] = {(): ()}
        self._kinds: dict[Scope, str] = {}

    def note(self, method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        """Follows Linen into a method, whose scope it names like this."""
        module = context.module
        kind = type(module).__name__
        suffix = "" if context.method_name == "__call__" else f".{context.method_name}"
        self._names.append(f"{module.name or kind}{suffix}")
        self._paths[tuple(self._names)] = tuple(module.path)
        self._kinds.setdefault(tuple(module.path), kind.lstrip("_"))
        try:
            return method(*args, **kwargs)
        finally:
            self._names.pop()

    def locate(self, scope: Scope) -> tuple[Scope, str]:
        """The path of the module, and the pooling in it where there is one."""
        known = next(n for n in range(len(scope), -1, -1) if scope[:n] in self._paths)
        function = next((name for name in scope[known:] if name in POOLINGS), "")
        return self._paths[scope[:known]], function

    def kind(self, path: Scope) -> str:
        """The class of the module at that path."""
        return self._kinds.get(path, "")
