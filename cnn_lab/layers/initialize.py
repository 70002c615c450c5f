"""Initial values without a compiler: what `jax.jit(module.init)` gives, in one trace.

On CPU they are the same bit for bit; elsewhere a compiler may round a distribution otherwise in a
block than in a weight.

Compiled as a whole, an initialisation takes XLA as long as it has weights of other shapes (93 s for
a DenseNet of CIFAR, on two cores). All of those draw alike, though, and the bits of the i-th number
of a draw follow from its key and i alone (JAX's partitionable threefry; Salmon et al. 2011,
"Parallel random numbers: as easy as 1, 2, 3"). So one program a distribution, which makes blocks of
a fixed size, makes weights of any shape.

A function is traced, and only what its results depend on is kept, which is not the network's
forward pass. Then each result is

* constant, as biases and the zeros of an optimizer are, or an argument: nothing is computed;
* a draw, numbers that follow one by one from random bits, maybe times a scalar: in blocks;
* an integer or a key: computed operation by operation, which is exact;
* anything else, such as an orthogonal matrix: compiled, all of those as one program.
"""

import dataclasses
import functools
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

import flax.linen as nn
import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Primitive, jaxpr_as_fun, primitives

from cnn_lab.core.arrays import Key, Tree

BLOCK, BLOCKS_PER_CALL = 4096, 64  # numbers of a block; blocks of a call, maybe of several draws
Result = TypeVar("Result")

# Operations whose result at an index follows from the operands there.
_ELEMENTWISE_NAMES = """
    abs add and bitcast_convert_type clamp convert_element_type copy cos div eq erf erf_inv erfc exp
    exp2 expm1 floor ge gt integer_pow is_finite le log log1p logistic lt max min mul ne neg
    nextafter not or pow rem round rsqrt select_n shift_left shift_right_arithmetic
    shift_right_logical sign sin sqrt square stop_gradient sub tan tanh xor
"""
ELEMENTWISE = frozenset(getattr(primitives, f"{name}_p") for name in _ELEMENTWISE_NAMES.split())
# Those of scalars whose result is the exact one, rounded: NumPy and every compiler agree on it.
EXACT: dict[Any, Callable[..., Any]] = {
    primitives.add_p: np.add,
    primitives.div_p: np.divide,
    primitives.max_p: np.maximum,
    primitives.min_p: np.minimum,
    primitives.mul_p: np.multiply,
    primitives.neg_p: np.negative,
    primitives.sqrt_p: np.sqrt,
    primitives.sub_p: np.subtract,
}
# Those that only give values other places.
MOVES: dict[Any, Callable[[np.ndarray, dict[str, Any]], np.ndarray]] = {
    primitives.copy_p: lambda values, _: values,
    primitives.reshape_p: lambda values, params: values.reshape(params["new_sizes"]),
    primitives.transpose_p: lambda values, params: values.transpose(params["permutation"]),
}
SAME_VALUES = (primitives.copy_p, primitives.stop_gradient_p)
# Those whose result has the values of the operand, if that has but one.
SPREAD = (*MOVES, primitives.broadcast_in_dim_p, primitives.stop_gradient_p)


@dataclasses.dataclass(frozen=True, eq=False)
class _Operation:
    """An operation of a trace; `number` is its place there."""

    equation: JaxprEqn
    operands: "tuple[_Value, ...]"
    number: int

    @property
    def primitive(self) -> Primitive:
        return self.equation.primitive

    @property
    def params(self) -> dict[str, Any]:
        return self.equation.params


@dataclasses.dataclass(frozen=True, eq=False)
class _Value:
    """A result of an operation; without one, a constant; without that, an argument."""

    shape: tuple[int, ...]
    dtype: Any
    operation: _Operation | None = None
    index: int = 0
    constant: Any = None

    @property
    def is_argument(self) -> bool:
        return self.operation is None and self.constant is None

    @property
    def is_scalar(self) -> bool:
        return self.shape.count(1) == len(self.shape)


class TracedInit(Generic[Result]):
    """A function (key, ...) -> tree of initial values, traced once.

    Called with arrays it computes them on the host, on CPU bit for bit as a compiled program does;
    some are then read-only, or views. Called with tracers it is a part of their program.
    Without JAX's partitionable threefry all is compiled.

    Attributes:
        shapes: of its results.

    Args:
        function: pure.
        arguments: such as it will be called with, or their shapes.
    """

    def __init__(self, function: Callable[..., Result], *arguments: Tree):
        jaxpr, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        self.shapes: Result = shapes
        inputs = [
            _Value(leaf.shape, leaf.dtype, index=index)
            for index, leaf in enumerate(jax.tree.leaves(arguments))
        ]
        self._jaxpr = _pruned(jaxpr, jaxpr.jaxpr.outvars)
        self._results = _inline(self._jaxpr, inputs, [])
        self._compiled = _compiled(self._jaxpr)

    def __call__(self, *arguments: Tree) -> Result:
        """The function's results at arguments of the same structure and shapes."""
        inputs: list[Any] = jax.tree.leaves(arguments)
        if any(isinstance(leaf, Tracer) for leaf in inputs):
            results = self._compiled(*inputs)
        else:
            results = self._plan(inputs)
        return jax.tree.unflatten(jax.tree.structure(self.shapes), results)

    @functools.cached_property
    def _plan(self) -> "_Plan":
        return _Plan(self._jaxpr, self._results)


def initialize(module: nn.Module, key: Key, *inputs: Any, **options: Any) -> dict[str, Tree]:
    """The variables of a module by collection, as host arrays.

    They are those of `jax.jit(module.init)` bit for bit on CPU, at the cost of a trace.

    Args:
        module: any Linen module.
        key: of its parameters.
        inputs: that it is called with; only their shapes matter.
        options: of that call, such as `train=False`.
    """
    init = lambda key: dict(module.init({"params": key}, *inputs, **options))  # noqa: E731
    return TracedInit(init, key)(key)


def trace_module(
    module: nn.Module, input_shape: tuple[int, ...], key: Key | None = None
) -> TracedInit[dict[str, Tree]]:
    """The initialisation of a module, key -> variables by collection, for one input.

    Equal modules are traced once, if they are hashable. The module is called with `train=False`.

    Args:
        module: the network.
        input_shape: (h, w, c).
        key: such as it will be called with; by default as `jax.random.key` makes them now.
    """
    key = jax.random.key(0) if key is None else key
    enable_x64: bool = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    arguments = (module, tuple(input_shape), key.shape, key.dtype, enable_x64)
    try:
        hash(module)
    except TypeError:
        return _trace_module.__wrapped__(*arguments)
    return _trace_module(*arguments)


@functools.lru_cache(maxsize=64)
def _trace_module(
    module: nn.Module,
    input_shape: tuple[int, ...],
    key_shape: tuple[int, ...],
    key_dtype: Any,
    enable_x64: bool,  # noqa: ARG001 - the dtypes of a trace depend on it
) -> TracedInit[dict[str, Tree]]:
    def init(key: Key) -> dict[str, Tree]:
        images = jnp.zeros((1, *input_shape))
        return dict(module.init({"params": key}, images, train=False))

    return TracedInit(init, jax.ShapeDtypeStruct(key_shape, key_dtype))


def own_arrays(values: Result) -> Result:
    """Values of a `TracedInit` as contiguous, writeable arrays that own their memory.

    Keys, and tracers within a program, stay as they are.
    """

    def own(leaf: Any) -> Any:
        if isinstance(leaf, Tracer) or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        return np.require(leaf, requirements=["C", "W", "O"])

    return jax.tree.map(own, values)


def _pruned(closed: ClosedJaxpr, results: Sequence[Any]) -> ClosedJaxpr:
    """A trace of some of its results, with the operations that these depend on."""
    needed = {var for var in results if not isinstance(var, Literal)}
    kept: list[JaxprEqn] = []
    for equation in reversed(closed.jaxpr.eqns):
        if not needed.isdisjoint(equation.outvars):
            kept.insert(0, equation)
            needed.update(var for var in equation.invars if not isinstance(var, Literal))
    effects = {effect for equation in kept for effect in equation.effects}
    jaxpr = closed.jaxpr.replace(eqns=kept, outvars=list(results), effects=effects)
    return ClosedJaxpr(jaxpr, closed.consts)


def _compiled(closed: ClosedJaxpr) -> Callable[..., list[Any]]:
    """A trace as a program, in which the functions that it calls remain: bits may depend on it."""

    def init(*inputs: Any) -> list[Any]:
        return jaxpr_as_fun(closed)(*inputs)

    return jax.jit(init)


def _inline(
    closed: ClosedJaxpr, inputs: Sequence[_Value], operations: list[_Operation]
) -> list[_Value]:
    """The results of a trace: graphs of what they depend on, jitted functions unfolded."""
    jaxpr = _pruned(closed, closed.jaxpr.outvars).jaxpr
    held: Sequence[Any] = closed.consts
    constants = [_Value(np.shape(c), c.dtype, constant=c) for c in held]
    values = dict(zip(jaxpr.invars, inputs, strict=True))
    values.update(zip(jaxpr.constvars, constants, strict=True))

    def read(var: Any) -> _Value:
        if isinstance(var, Literal):
            aval: Any = var.aval
            constant = np.asarray(var.val, aval.dtype)
            return _Value(constant.shape, constant.dtype, constant=constant)
        return values[var]

    for equation in jaxpr.eqns:
        operands = tuple(read(var) for var in equation.invars)
        if equation.primitive is primitives.jit_p:
            results = _inline(equation.params["jaxpr"], operands, operations)
        else:
            operation = _Operation(equation, operands, len(operations))
            operations.append(operation)
            made: list[Any] = [var.aval for var in equation.outvars]
            results = [
                _Value(np.shape(aval), getattr(aval, "dtype", None), operation, index)
                for index, aval in enumerate(made)
            ]
        values.update(zip(equation.outvars, results, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _evaluate(values: Sequence[_Value], inputs: Sequence[Any]) -> list[Any]:
    """Computes values operation by operation, each once."""
    operations: dict[int, _Operation] = {}
    ahead = [value.operation for value in values if value.operation is not None]
    while ahead:
        operation = ahead.pop()
        if operation.number not in operations:
            operations[operation.number] = operation
            ahead += [v.operation for v in operation.operands if v.operation is not None]
    found: dict[int, Sequence[Any]] = {}

    def read(value: _Value) -> Any:
        if value.operation is not None:
            return found[value.operation.number][value.index]
        return inputs[value.index] if value.constant is None else value.constant

    for number, operation in sorted(operations.items()):
        params = operation.primitive.get_bind_params(operation.params)
        with operation.equation.ctx.manager:
            result = operation.primitive.bind(*map(read, operation.operands), **params)
        found[number] = result if operation.primitive.multiple_results else (result,)
    return [read(value) for value in values]


class _Plan:
    """How the results of a trace are computed: list of its arguments -> list of results."""

    def __init__(self, closed: ClosedJaxpr, results: Sequence[_Value]):
        self._arguments: dict[int, int] = {}
        self._constants: dict[int, np.ndarray] = {}
        self._draws: dict[int, _Draw] = {}
        self._exact: dict[int, _Value] = {}
        self._others: list[int] = []
        for index, value in enumerate(map(_original, results)):
            if value.is_argument:
                self._arguments[index] = value.index
            elif (constant := _constant(value)) is not None:
                self._constants[index] = constant
            elif (draw := _as_draw(value)) is not None:
                self._draws[index] = draw
            elif _is_exact(value):
                self._exact[index] = value
            else:
                self._others.append(index)
        variables = closed.jaxpr.outvars
        self._compute_draws, self._compute_others = (
            _compiled(_pruned(closed, [variables[index] for index in indices]))
            for indices in (self._draws, self._others)
        )

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        found: dict[int, Any] = {at: inputs[number] for at, number in self._arguments.items()}
        found |= self._constants
        wanted = [draw.key for draw in self._draws.values()] + list(self._exact.values())
        computed = _evaluate(wanted, inputs)
        keys, exact = computed[: len(self._draws)], computed[len(self._draws) :]
        found.update(zip(self._exact, exact, strict=True))
        draws = list(self._draws.values())
        values = _drawn(draws, keys) if _are_partitionable(keys) else self._compute_draws(*inputs)
        found.update(zip(self._draws, values, strict=True))
        if self._others:
            found.update(zip(self._others, self._compute_others(*inputs), strict=True))
        return [found[index] for index in range(len(found))]


def _are_partitionable(keys: Sequence[Key]) -> bool:
    """Whether the i-th number of each key follows from i, whatever the shape of a draw."""
    partitionable: bool = jax.config.jax_threefry_partitionable  # pyright: ignore[reportAttributeAccessIssue]
    return partitionable and all(jax.random.key_impl(key) == "threefry2x32" for key in keys)


def _original(value: _Value) -> _Value:
    """What a value is a copy of, or itself."""
    while value.operation is not None and value.operation.primitive in SAME_VALUES:
        value = value.operation.operands[0]
    return value


def _constant(value: _Value) -> np.ndarray | None:
    """The value of a constant, None of all else; arrays that are computed have but one value."""
    if value.operation is None:
        has_values = value.constant is not None and not _is_key(value)
        return np.asarray(value.constant) if has_values else None
    primitive = value.operation.primitive
    exact = value.is_scalar and value.dtype == np.float32 and primitive in EXACT
    converted = value.is_scalar and primitive is primitives.convert_element_type_p
    if not exact and not converted and primitive not in SPREAD:
        return None
    operands = [_single(_constant(operand)) for operand in value.operation.operands]
    known = [operand for operand in operands if operand is not None]
    if len(known) < len(operands):
        return None
    with np.errstate(all="ignore"):
        result = EXACT[primitive](*known) if exact else known[0]
    return np.broadcast_to(np.asarray(result, value.dtype), value.shape)


def _single(array: np.ndarray | None) -> np.ndarray | None:
    """The only value of an array that has but one, however often; None of all others."""
    if array is None or not array.size or (array.size > 1 and any(array.strides)):
        return None
    return array[(0,) * array.ndim]


def _is_key(value: _Value) -> bool:
    return jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def _is_exact(value: _Value) -> bool:
    """Whether a value is an integer or a key, and follows from such alone."""
    ahead, seen = [value], set()
    while ahead:
        value = ahead.pop()
        if not (_is_key(value) or jnp.issubdtype(value.dtype, np.integer)):
            return False
        if value.operation is not None and value.operation.number not in seen:
            seen.add(value.operation.number)
            ahead += value.operation.operands
    return True


@dataclasses.dataclass(frozen=True)
class _Draw:
    """Numbers that follow from random bits, one by one.

    Two draws of one distribution have equal formulas.

    Attributes:
        key: of the bits.
        formula: of the numbers, which are drawn in this shape.
        factor: of all numbers.
        moves: operations that give them other places.
    """

    key: _Value
    formula: "_Formula"
    shape: tuple[int, ...]
    factor: np.ndarray | None
    moves: tuple[_Operation, ...]

    def finish(self, numbers: np.ndarray) -> np.ndarray:
        """The values of the draw from the numbers of its formula, one after the other."""
        values = numbers.reshape(self.shape)
        values = values.copy() if self.factor is None else values * self.factor
        for move in self.moves:
            values = MOVES[move.primitive](values, move.params)
        return values


# Steps (operation, its parameters, operands): an operand is the number of an earlier step, 0 being
# the random bits, or a constant by its dtype and bytes.
_Operand = int | tuple[str, bytes]
_Params = tuple[tuple[str, Hashable], ...]
_Formula = tuple[tuple[Any, _Params, tuple[_Operand, ...]], ...]


class _NotElementwiseError(Exception):
    """A value that is no function of the random bits at the same index."""


def _as_draw(value: _Value) -> _Draw | None:
    """The draw that a value is, None where it is none."""
    value, moves = _without_moves(value)
    value, factor = _without_factor(value)
    steps: list[Any] = []
    numbers: dict[_Value, _Operand] = {}
    keys: list[_Value] = []

    def operand(value: _Value) -> _Operand:
        if value not in numbers:
            numbers[value] = written(value)
        return numbers[value]

    def written(part: _Value) -> _Operand:
        operation = part.operation
        if operation is None:
            if part.constant is None or not part.is_scalar:
                raise _NotElementwiseError
            constant = np.asarray(part.constant)
            return constant.dtype.name, constant.tobytes()
        if operation.primitive is primitives.random_bits_p:
            (key,) = operation.operands
            fits = part.shape == value.shape and key.shape == () and part.dtype == np.uint32
            if not fits or keys or np.prod(part.shape) >= 2**32 or not _is_exact(key):
                raise _NotElementwiseError
            keys.append(key)
            return 0
        if part.shape != value.shape and not part.is_scalar:
            raise _NotElementwiseError
        if operation.primitive in (primitives.broadcast_in_dim_p, primitives.reshape_p):
            if not operation.operands[0].is_scalar:
                raise _NotElementwiseError
            return operand(operation.operands[0])
        if operation.primitive not in ELEMENTWISE:
            raise _NotElementwiseError
        params = tuple(sorted(operation.params.items()))
        operands = tuple(operand(each) for each in operation.operands)
        steps.append((operation.primitive, params, operands))
        return len(steps)

    try:
        operand(value)
        hash(tuple(steps))
    except (_NotElementwiseError, TypeError):  # or a parameter that is not hashable
        return None
    return _Draw(keys[0], tuple(steps), value.shape, factor, moves) if keys else None


def _without_moves(value: _Value) -> tuple[_Value, tuple[_Operation, ...]]:
    """An array before its values were moved to other places, and the operations that did so."""
    moves: list[_Operation] = []
    while (operation := value.operation) is not None and operation.primitive in MOVES:
        moves.insert(0, operation)
        value = operation.operands[0]
    return value, tuple(moves)


def _without_factor(value: _Value) -> tuple[_Value, np.ndarray | None]:
    """A float32 array before it was multiplied by scalars, and their product.

    XLA computes (x * a) * b as x * (a * b), too.
    """
    factors: list[np.ndarray] = []
    while (operation := value.operation) is not None and value.dtype == np.float32:
        if operation.primitive is not primitives.mul_p:
            break
        first, second = (_single(_constant(operand)) for operand in operation.operands)
        factor = second if first is None else first
        if factor is None or (first is not None and second is not None):
            break
        factors.insert(0, factor)
        value = operation.operands[0 if first is None else 1]
    return value, functools.reduce(np.multiply, factors) if factors else None


def _drawn(draws: Sequence[_Draw], keys: Sequence[Key]) -> list[np.ndarray]:
    """The values of draws; those of one distribution are made together."""
    alike: dict[_Formula, list[int]] = defaultdict(list)
    for index, draw in enumerate(draws):
        alike[draw.formula].append(index)
    found: dict[int, np.ndarray] = {}
    for formula, indices in alike.items():
        sizes = [math.prod(draws[index].shape) for index in indices]
        counts = [max(1, -(-size // BLOCK)) for size in sizes]
        words = np.asarray(jax.random.key_data(jnp.stack([keys[index] for index in indices])))
        starts = np.concatenate([np.arange(count, dtype=np.uint32) for count in counts]) * BLOCK
        blocks = _blocks(formula, np.repeat(words, counts, axis=0), starts)
        first = 0
        for index, size, count in zip(indices, sizes, counts, strict=True):
            found[index] = draws[index].finish(blocks[first : first + count].reshape(-1)[:size])
            first += count
    return [found[index] for index in range(len(draws))]


def _blocks(formula: _Formula, words: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Numbers [block, BLOCK] of keys [block, 2], the first of each block being its start."""
    program, found = _block_program(formula), []
    missing = -len(starts) % BLOCKS_PER_CALL
    words, starts = np.pad(words, ((0, missing), (0, 0))), np.pad(starts, (0, missing))
    for first in range(0, len(starts), BLOCKS_PER_CALL):
        chosen = slice(first, first + BLOCKS_PER_CALL)
        found.append(np.asarray(program(words[chosen], starts[chosen])))
    return np.concatenate(found)


@functools.lru_cache(maxsize=256)
def _block_program(formula: _Formula) -> Callable[[np.ndarray, np.ndarray], jax.Array]:
    """Compiles (keys [BLOCKS_PER_CALL, 2], starts [BLOCKS_PER_CALL]) -> numbers."""
    shape = (BLOCKS_PER_CALL, BLOCK)

    def draw_blocks(words: jax.Array, starts: jax.Array) -> jax.Array:
        low = starts[:, None] + jnp.arange(BLOCK, dtype=np.uint32)[None]
        parts = [jnp.broadcast_to(words[:, i, None], shape) for i in range(2)]
        first, second = jax.extend.random.threefry2x32_p.bind(*parts, jnp.zeros_like(low), low)
        results = [first ^ second]

        def read(operand: _Operand) -> Any:
            if isinstance(operand, int):
                return results[operand]
            return np.frombuffer(operand[1], operand[0]).reshape(())

        for primitive, params, operands in formula:
            values = [read(operand) for operand in operands]
            if any(value.shape for value in values):
                values = [jnp.broadcast_to(value, shape) for value in values]
            results.append(primitive.bind(*values, **dict(params)))
        return results[-1]

    return jax.jit(draw_blocks)
