"""Cost of every layer of a network, of its training, and of the exchanges between devices.

Programs are traced, never run. One multiply-accumulate (MAC) counts as one; convolutions and dense
products are counted, as published numbers do, and normalisation, activations and pooling are not. A
transposed convolution counts every weight once for each pixel of its input. Where a layer is
applied several times, as in a recurrent net, every time counts.

Energies of arithmetic: Horowitz 2014, "Computing's energy problem (and what we can do about it)",
ISSCC, figure 1.1.9, in a 45 nm process: a multiplication and an addition in float32 take 3.7 + 0.9
pJ, in float16 1.1 + 0.4 pJ. Moving data comes on top, so the results are lower bounds.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cnn_lab.analysis.receptive_field import Field, Scope, field_of_images, walk
from cnn_lab.core import trees
from cnn_lab.core.arrays import Tree
from cnn_lab.core.errors import ConfigError
from cnn_lab.layers.convolution import as_asked
from cnn_lab.layers.scopes import is_call

# Scopes of functions that are layers of their own in a table; their products are no weights'.
POOLINGS = frozenset(
    {"max_pool", "average_pool", "lp_pool", "adaptive_average_pool"}
    | {"global_average_pool", "global_max_pool", "stochastic_pool", "local_response_norm"}
)
PICOJOULES_PER_MAC = {"float32": 4.6, "bfloat16": 1.5, "float16": 1.5}
TRAINING_PASSES = 3  # forward, and one pass each for the gradients of the maps and of the weights


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer on one example.

    Attributes:
        path: of its parameters; of the module around it for a function.
        kind: class or function.
        output_shape: without the batch; None for a layer that only training uses.
        num_parameters: of its own, without those of the layers inside.
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
    """Cost of a network on one example, and the shapes of its variables.

    Layers come in the order of evaluation, those that only training uses last.
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


def cost_of(module: nn.Module, input_shape: Sequence[int], *, train: bool = False) -> Cost:
    """Traces a model on one example of shape (*space, c) and adds up its layers.

    With `train` it is the pass forward in training, with the auxiliary heads.
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
    owned: collections.Counter[Scope] = collections.Counter()  # values by path of the module
    for path, leaf in trees.flatten(variables["params"]).items():
        owned[tuple(path.split("/")[:-1])] += math.prod(leaf.shape)
    layers = _layers(traced.jaxpr, modules, owned, num_axes=len(input_shape) - 1)
    return Cost(tuple(layers), variables)


def _layers(
    program: Any, modules: "_Modules", owned: Mapping[Scope, int], num_axes: int
) -> Iterator[Layer]:
    # By path, function within it, and number of the function's call; the last output is a layer's.
    macs: collections.Counter[tuple[Scope, str, int]] = collections.Counter()
    outputs: dict[tuple[Scope, str, int], tuple[Any, Field | None]] = {}
    calls: collections.Counter[tuple[Scope, str]] = collections.Counter()

    def visit(scope: Scope, equation: Any, times: int, fields: list[Field | None]) -> None:
        path, function = modules.locate(scope)
        calls[path, function] += bool(function) and is_call(equation, function)
        count = 0 if function else macs_of(equation) * times
        key = (path, function, calls[path, function])
        if count or function or path in owned or key in outputs:
            macs[key] += count
            outputs[key] = equation.outvars[0].aval, fields[0]

    walk(program, [None] * (len(program.invars) - 1) + [field_of_images(num_axes)], visit)
    for path in owned:
        outputs.setdefault((path, "", 0), (None, None))
    for (path, function, number), (output, field) in outputs.items():
        if output is None or output.ndim != num_axes + 2 or not num_axes:
            field = None
        size, stride = None, None
        if field is not None:
            size, stride = field.size, tuple(float(field.jumps[1 + a][a]) for a in range(num_axes))
        yield Layer(
            path="/".join(path),
            kind=function or modules.kinds.get(path, ""),
            output_shape=None if output is None else output.shape[1:],
            num_parameters=0 if function else owned.get(path, 0),
            macs=macs[path, function, number],
            receptive_field=size,
            stride=stride,
            activation_bytes=0 if output is None else output.size * output.dtype.itemsize,
        )


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


class _Modules:
    """Modules, with their classes, that the named scopes of a program stand for."""

    def __init__(self):
        self._names: list[str] = []
        self._paths: dict[Scope, Scope] = {(): ()}
        self.kinds: dict[Scope, str] = {}

    def note(self, method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        """Follows Linen into a method, whose scope it names like this."""
        module = context.module
        kind = type(module).__name__
        suffix = "" if context.method_name == "__call__" else f".{context.method_name}"
        self._names.append(f"{module.name or kind}{suffix}")
        self._paths[tuple(self._names)] = tuple(module.path)
        self.kinds.setdefault(tuple(module.path), kind.lstrip("_"))
        try:
            return method(*args, **kwargs)
        finally:
            self._names.pop()

    def locate(self, scope: Scope) -> tuple[Scope, str]:
        """The path of the module, and the pooling in it where there is one."""
        known = next(n for n in range(len(scope), -1, -1) if scope[:n] in self._paths)
        function = next((name for name in scope[known:] if name in POOLINGS), "")
        return self._paths[scope[:known]], function


_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
# `%name = f32[8,4]{1,0} all-reduce(...)`; of several arrays at once the type is a tuple, which may
# hold comments with any character in them.
_CALL = re.compile(rf"= (.*?)[ }})]({_KINDS})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_CONTEXT = ("u32", "")  # scalars of an accelerator's own, beside operand and result of a start
_WIDTHS = {"pred": 1, "bf": 2}  # bytes, of types that numpy names otherwise


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of one kind in a program, and the bytes of their results on one device.

    Those in the body of a loop count once.
    """

    count: int = 0
    num_bytes: int = 0


def collectives_in(text: str) -> dict[str, Collective]:
    """Exchanges between devices by kind, of a program's optimized HLO (`compiled.as_text()`)."""
    found: dict[str, Collective] = {}
    for result, kind, start in _CALL.findall(text):
        sizes = [_num_bytes(*array) for array in _ARRAY.findall(result) if array != _CONTEXT]
        if start and kind != "all-reduce":
            sizes = sizes[len(sizes) // 2 :]  # the operands are part of what a start returns
        before = found.get(kind, Collective())
        found[kind] = Collective(before.count + 1, before.num_bytes + sum(sizes))
    return found


def _num_bytes(dtype: str, shape: str) -> int:
    letters, bits = dtype.rstrip("0123456789"), dtype.lstrip("abcdefghijklmnopqrstuvwxyz")
    width = _WIDTHS.get(letters) or max(1, int(bits or 8) // 8)
    return math.prod(int(size) for size in shape.split(",") if size) * width


def storage_bytes(num_parameters: int, dtype: str = "float32") -> int:
    """Bytes of that many parameters of a dtype such as float32, bfloat16 or int8."""
    try:
        return num_parameters * jnp.dtype(dtype).itemsize
    except TypeError:
        allowed = "one such as float32, bfloat16, float16 or int8"
        raise ConfigError(where="dtype", found=dtype, allowed=allowed) from None


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Bytes that a training step holds.

    Attributes:
        statistics: variables that are not trained, such as those of batch normalisation.
        optimizer: by the optimizer's name.
        activations: outputs of the layers over the batch, stored for the backward pass.
    """

    parameters: int
    gradients: int
    statistics: int
    optimizer: dict[str, int]
    activations: int

    def total(self, optimizer: str) -> int:
        """All of it under that optimizer."""
        weights = self.parameters + self.gradients + self.statistics
        return weights + self.optimizer[optimizer] + self.activations


def step_memory(variables: Tree, activation_bytes: int, batch_size: int) -> StepMemory:
    """Memory of a training step, from shapes of the variables or the variables themselves.

    The bytes of activations are those of one example, the batch that of one device.
    """
    parameters = trees.num_bytes(variables["params"])
    # Rates do not matter for what an optimizer stores.
    optimizers = {"SGD with momentum": optax.sgd(0.1, momentum=0.9), "Adam": optax.adam(0.1)}
    slots = {
        name: trees.num_bytes(jax.eval_shape(optimizer.init, variables["params"]))
        for name, optimizer in optimizers.items()
    }
    others = trees.num_bytes(variables) - parameters
    return StepMemory(parameters, parameters, others, slots, activation_bytes * batch_size)


def energy_kwh(macs: float, picojoules_per_mac: float) -> float:
    """Energy of that many multiply-accumulates, arithmetic alone."""
    return macs * picojoules_per_mac * 1e-12 / 3.6e6
