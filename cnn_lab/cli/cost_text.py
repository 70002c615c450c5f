"""The lines of `cnn-lab summary`: a table of layers, totals, memory and energy."""

from collections.abc import Sequence

from cnn_lab.analysis import cost as costs
from cnn_lab.analysis.cost import Cost, Layer
from cnn_lab.core.text import human_bytes, human_count

IMAGES = 1_000_000  # of the energies
HEADINGS = ("layer", "kind", "output", "parameters", "MACs", "field", "stride", "output bytes")
NUM_LEFT = 3  # columns of words; those of numbers are aligned to the right


def cost_text(
    cost: Cost,
    training: Cost,
    batch_size: int,
    dtype: str,
    price_per_kwh: float,
    picojoules_per_mac: float | None = None,
) -> list[str]:
    """The lines of a table of layers, totals, memory and energy.

    The cost is that of a model in evaluation, and `training` that of its pass forward in training;
    `picojoules_per_mac` is by default Horowitz's for the dtype.
    """
    rows = [HEADINGS, *map(_row, cost.layers)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = []
    for row in rows:
        cells = list(zip(row, widths, strict=True))
        words = [cell.ljust(width) for cell, width in cells[:NUM_LEFT]]
        numbers = [cell.rjust(width) for cell, width in cells[NUM_LEFT:]]
        table.append("  ".join(words + numbers).rstrip())
    table.insert(1, "-" * len(table[0]))
    memory = costs.step_memory(cost.variables, training.activation_bytes, batch_size)
    joules = picojoules_per_mac or costs.PICOJOULES_PER_MAC[dtype]
    source = "as given by --picojoules_per_mac"
    if picojoules_per_mac is None:
        source = f"{dtype}; Horowitz 2014, ISSCC, 45 nm; data movement left out"
    more = "as many" if training.macs == cost.macs else "those with the layers that only train"
    training_macs = costs.TRAINING_PASSES * training.macs
    lines = [
        *table,
        "",
        f"parameters   {cost.num_parameters:,} = {human_bytes(memory.parameters)}",
        f"inference    {cost.macs:,} MACs = {human_count(2 * cost.macs)}FLOPs an image "
        "(2 a MAC; convolutions and dense products)",
        f"training     {human_count(2 * training_macs)}FLOPs an image "
        f"({costs.TRAINING_PASSES} times {more}: forward and two gradients)",
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
    for phase, macs in (("inference", cost.macs), ("training", training_macs)):
        kwh = costs.energy_kwh(IMAGES * macs, joules)
        lines.append(
            f"energy       {kwh:.3g} kWh = {kwh * price_per_kwh:.3g} in money for {phase} on "
            f"{IMAGES:,} images"
        )
    lines.append(
        f"             at least: arithmetic alone, {joules:g} pJ a MAC ({source}), "
        f"{price_per_kwh:g} a kWh (--price_per_kwh)"
    )
    return lines


def _row(layer: Layer) -> Sequence[str]:
    shape, field, stride = "(training only)", "-", "-"
    if layer.output_shape is not None:
        shape, field = "x".join(map(str, layer.output_shape)) or "1", "all"
        if layer.receptive_field is not None and layer.stride is not None:
            field, stride = _side(layer.receptive_field), _side(layer.stride)
    numbers = (f"{n:,}" if n else "-" for n in (layer.num_parameters, layer.macs))
    size = f"{layer.activation_bytes:,}"
    return (layer.path or "(model)", layer.kind, shape, *numbers, field, stride, size)


def _side(sizes: Sequence[int] | Sequence[float]) -> str:
    """One number where all axes agree, else one each: 3 or 1x3."""
    return "x".join(f"{size:g}" for size in (sizes[:1] if len({*sizes}) == 1 else sizes))
