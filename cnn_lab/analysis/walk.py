"""Walks the equations of a traced program, inner programs too, with the receptive fields."""

from collections.abc import Callable, Sequence
from typing import Any

from cnn_lab.analysis.receptive_field import Field, everything, propagate

Scope = tuple[str, ...]
Visit = Callable[[Scope, Any, int, list[Field | None]], None]
# What holds one program of the same inputs and outputs, under one of these names.
_PROGRAMS = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def walk(
    program: Any,
    fields: Sequence[Field | None],
    visit: Visit,
    scope: Scope = (),
    times: int = 1,
) -> list[Field | None]:
    """Visits every equation that holds no inner program, in order, and returns the outputs' fields.

    The branches of a conditional are all visited, and the body of a loop without a known number of
    rounds once.

    Args:
        program: a jaxpr.
        fields: of its inputs; None where they do not depend on the images.
        visit: called with the named scopes around an equation, the equation, how often it runs, and
            the fields of its outputs.
        scope: the named scopes around the program.
        times: how often it runs.
    """
    known: dict[Any, Field | None] = dict(zip(program.invars, fields, strict=True))

    def of(variable: Any) -> Field | None:
        return None if hasattr(variable, "val") else known.get(variable)  # literals have values

    for equation in program.eqns:
        names = str(equation.source_info.name_stack)
        here = (*scope, *names.split("/")) if names else scope
        incoming = [of(variable) for variable in equation.invars]
        inner = _programs(equation)
        if not inner:
            outgoing = propagate(equation, incoming)
            visit(here, equation, times, outgoing)
        elif equation.primitive.name in ("cond", "scan", "while"):
            rounds = times * equation.params.get("length", 1)
            for each in inner:
                walk(each, [None] * len(each.invars), visit, here, rounds)
            is_blind = all(field is None for field in incoming)
            outgoing = [None] * len(equation.outvars)
            if not is_blind:
                outgoing = everything(equation, incoming)
        else:
            outgoing = walk(inner[0], incoming, visit, here, times)
        known.update(zip(equation.outvars, outgoing, strict=True))
    return [of(variable) for variable in program.outvars]


def _programs(equation: Any) -> list[Any]:
    """The programs inside an equation that run with it; a reduction's operation is none."""
    parameters, name = equation.params, equation.primitive.name
    if name == "cond":
        found = list(parameters["branches"])
    elif name == "while":
        found = [parameters["cond_jaxpr"], parameters["body_jaxpr"]]
    else:
        found = [parameters[key] for key in _PROGRAMS if key in parameters]
        found = [p for p in found if p is not None]
    opened = [getattr(each, "jaxpr", each) for each in found]
    if name in ("cond", "scan", "while"):
        return opened
    return [each for each in opened if len(each.invars) == len(equation.invars)][:1]
