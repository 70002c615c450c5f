"""What went wrong in a step whose loss or gradient was not finite."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import numpy as np

from cnn_lab.core import trees
from cnn_lab.core.errors import DivergedError
from cnn_lab.core.shapes import Tree
from cnn_lab.train.state import TrainState
from cnn_lab.train.step import Task

MOST_CHARACTERS = 200  # of the reason why a step cannot be repeated


def explain_non_finite(
    model: nn.Module,
    task: Task,
    state: TrainState,
    make_batch: Callable[[], Tree],
    *,
    example_ids: Sequence[int],
    step: int,
    advice: str,
) -> DivergedError:
    """Runs the bad step again, outside the compiled program, and says where it broke.

    Args:
        model: the network.
        task: its losses.
        state: as it was before the step.
        make_batch: gives the step's batch.
        example_ids: positions of the batch's examples in the source.
        step: updates made before.
        advice: what the user can do.

    Returns:
        An error naming the step, the examples whose loss is not finite and the first layer whose
        output is not; the first gradient when all outputs are. Where the step cannot be repeated,
        for one because its outputs do not fit in memory all at once, the step and its examples.
    """
    bad: list[int] = []
    try:
        place, rows = _first_place(model, task, state, make_batch(), step)
        bad = [example for example, is_bad in zip(example_ids, rows, strict=True) if is_bad]
    except Exception as error:  # whatever it is, it must not hide what happened in training
        first_line = str(error).strip().partition("\n")[0][:MOST_CHARACTERS]
        reason = ": ".join(filter(None, (type(error).__name__, first_line)))
        place = f"the step could not be repeated ({reason})"
    shown = bad or list(example_ids)
    examples = ", ".join(map(str, shown[:10])) + (" ..." if len(shown) > 10 else "")
    return DivergedError(
        f"The loss or gradient of step {step + 1} is not finite: {place}; examples {examples} of "
        f"the training split {'have a non-finite loss' if bad else 'were in the batch'}. {advice}"
    )


def _first_place(
    model: nn.Module, task: Task, state: TrainState, batch: Tree, step: int
) -> tuple[str, list[bool]]:
    """Where the first non-finite value of a step is, and which of its examples have such a loss."""
    variables = {"params": state.params, **state.collections}
    rngs = {"dropout": jax.random.fold_in(state.key, step)}
    layers: list[str] = []

    def capture(module: nn.Module, method: str) -> bool:
        """Notes the layers in the order in which they end; trees are sorted by name instead."""
        layers.append("/".join((*module.path, method)))
        return method == "__call__"

    def losses(params: Tree):
        logits, kept = model.apply(
            {**variables, "params": params},
            batch["image"],
            train=True,
            rngs=rngs,
            capture_intermediates=capture,
            mutable=["intermediates", *state.collections],
        )
        return task.losses(logits, batch), kept["intermediates"]

    def total(params: Tree):
        values, intermediates = losses(params)
        return (values * batch["weight"]).sum(), (values, intermediates)

    (_, (values, intermediates)), gradients = jax.value_and_grad(total, has_aux=True)(state.params)
    flat = trees.flatten(intermediates)
    outputs = [
        {path.replace("__call__/0", "").strip("/") or "the model": leaf}
        for layer in layers
        for path, leaf in flat.items()
        if path.startswith(f"{layer}/")
    ]
    sources = (
        ("weight", state.params),
        ("input", {"image": batch["image"]}),
        *(("output of", output) for output in outputs),
        ("loss of", {"the examples, after finite outputs": values}),
        ("gradient of", gradients),
    )
    place = "nothing is non-finite when the step is repeated in isolation"
    for kind, tree in sources:
        if path := trees.first_non_finite(tree):
            place = f"the first non-finite value is in the {kind} {path}"
            break
    return place, (~np.isfinite(np.asarray(values))).tolist()
