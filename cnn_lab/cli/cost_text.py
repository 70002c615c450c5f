"""The lines of `cnn-lab summary`: a table of layers, totals, memory and energy."""

from collections.abc import Sequence

from cnn_lab.analysis.cost import Cost, Layer
from cnn_lab.analysis.footprint import (
    PICOJOULES_PER_MAC,
    TRAINING_PASSES,
    energy_kwh,
    training_memory,
)
from cnn_lab.core.formatting import human_bytes, human_count

IMAGES = 1_000_000  # of the energies
HEADINGS = ("layer", "kind", "output", "parameters", "MACs", "field", "stride", "output bytes")
RIGHT = (False, False, False, True, True, True, True, True)


def cost_text(
    cost: Cost,
    training: Cost,
    batch_size: int,
    dtype: str,
    price_per_kwh: float,
    picojoules_per_mac: float | None = None,
) -> list[str]:
    """The lines of a table of layers, totals, memory and energy.

    Args:
        cost: of a model in evaluation.
        training: of its pass forward in training.
        batch_size: examples per training step.
        dtype: of the computation, which decides the energy of arithmetic.
        price_per_kwh: money per kilowatt-hour.
        picojoules_per_mac: energy of a multiply-accumulate; None is Horowitz's for the dtype.
    """
    rows = [HEADINGS, *map(_row, cost.layers)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [_line(row, widths) for row in rows]
    table.insert(1, "-" * len(table[0]))
    memory = training_memory(cost.variables, training.activation_bytes, batch_size)
    joules = picojoules_per_mac or PICOJOULES_PER_MAC[dtype]
    source = "as given by --picojoules_per_mac"
    if picojoules_per_mac is None:
        source = f"{dtype}; Horowitz 2014, ISSCC, 45 nm; data movement left out"
    more = "as many" if training.macs == cost.macs else "those with the layers that only train"
    lines = [
        *table,
        "",
        f"parameters   {cost.num_parameters:,} = {human_bytes(memory.parameters)}",
        f"inference    {cost.macs:,} MACs = {human_count(2 * cost.macs)}FLOPs an image "
        "(2 a MAC; convolutions and dense products)",
        f"training     {human_count(2 * TRAINING_PASSES * training.macs)}FLOPs an image "
        f"({TRAINING_PASSES} times {more}: forward and two gradients)",
        f"activations  {human_bytes(training.activation_bytes)} an image, "
        f"{human_bytes(memory.activations)} in a batch of {batch_size} (outputs of the layers "
        "above, kept for the gradients)",
    ]
    for optimizer, slots in memory.optimizer.items():
        lines.append(
            f"memory       {human_bytes(memory.total(optimizer))} for training with {optimizer}: "
            f"{human_bytes(memory.parameters)} parameters, {human_bytes(memory.gradients)} "
            f"gradients, {human_bytes(slots)} optimizer, {human_bytes(memory.statistics)} "
            f"statistics, {human_bytes(memory.activations)} activations"
        )
    for what, macs in (("inference", cost.macs), ("training", TRAINING_PASSES * training.macs)):
        kwh = energy_kwh(IMAGES * macs, joules)
        lines.append(
            f"energy       {kwh:.3g} kWh = {kwh * price_per_kwh:.3g} in money for {what} on "
            f"{IMAGES:,} images"
        )
    lines.append(
        f"             at least: arithmetic alone, {joules:g} pJ a MAC ({source}), "
        f"{price_per_kwh:g} a kWh (--price_per_kwh)"
    )
    return lines


def _row(layer: Layer) -> Sequence[str]:
    shape = "(training only)"
    if layer.output_shape is not None:
        shape = "x".join(map(str, layer.output_shape)) or "1"
    field, stride = "all", "-"
    if layer.output_shape is None:
        field = "-"
    elif layer.receptive_field is not None and layer.stride is not None:
        field, stride = _side(layer.receptive_field), _side(layer.stride)
    numbers = (f"{n:,}" if n else "-" for n in (layer.num_parameters, layer.macs))
    return (
        layer.path or "(model)",
        layer.kind,
        shape,
        *numbers,
        field,
        stride,
        f"{layer.activation_bytes:,}",
    )


def _side(sizes: Sequence[int] | Sequence[float]) -> str:
    """One number where all axes agree, else one each: 3 or 1x3."""
    return "x".join(f"{size:g}" for size in (sizes[:1] if len({*sizes}) == 1 else sizes))


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = zip(row, widths, RIGHT, strict=True)
    return "  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in cells).rstrip()
