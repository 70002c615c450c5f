"""Diagnosis of a step whose numbers were not finite."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import numpy as np

from cnn_lab.core import trees
from cnn_lab.core.arrays import Key, Tree
from cnn_lab.core.errors import DivergedError
from cnn_lab.tasks.task import Task
from cnn_lab.training.frozen import as_evaluated, frozen_layers
from cnn_lab.training.gradient import micro_batch_key, split
from cnn_lab.training.state import TrainState, step_key

MAX_CHARACTERS = 200  # of the reason why a step cannot be repeated


def explain_non_finite(
    model: nn.Module,
    task: Task,
    state: TrainState,
    make_batch: Callable[[], Tree],
    *,
    example_ids: Sequence[int],
    step: int,
    num_micro_batches: int = 1,
    advice: str,
) -> DivergedError:
    """Runs the bad step again, outside the compiled program, to find where it broke.

    The error names the step, the examples whose loss is not finite and the first layer whose output
    is not; the first gradient when all outputs are; and where loss and gradient are finite, that
    what follows from them is not. Where the step cannot be repeated, for one because its outputs do
    not fit in memory all at once, the step and its examples.

    Args:
        model: the network.
        task: its losses.
        state: before the step.
        make_batch: gives the step's batch.
        example_ids: positions of the batch's examples in the source.
        step: updates made before.
        num_micro_batches: parts that the step takes its batch in.
        advice: a sentence for the user.
    """
    bad: list[int] = []
    place = ""
    try:
        batch, key = make_batch(), step_key(state)
        ids = split(np.asarray(example_ids), num_micro_batches).tolist()
        parts = jax.tree.map(lambda x: split(x, num_micro_batches), batch)
        collections = state.collections
        for index in range(num_micro_batches):
            part = jax.tree.map(lambda x, i=index: x[i], parts)
            part_key = key if num_micro_batches == 1 else micro_batch_key(key, index)
            found, rows, collections = _first_place(
                model, task, state.replace(collections=collections), part, part_key
            )
            if found is not None:
                place = f"the first non-finite value is in the {found}"
                bad = [i for i, is_bad in zip(ids[index], rows, strict=True) if is_bad]
                break
    except Exception as error:  # whatever it is, it must not hide what happened in training
        first_line = str(error).strip().partition("\n")[0][:MAX_CHARACTERS]
        reason = ": ".join(filter(None, (type(error).__name__, first_line)))
        place = f"the step could not be repeated ({reason})"
    if not place:
        return DivergedError(
            f"Step {step + 1} is not finite, though its loss and gradient are when they are "
            f"computed again: they overflowed narrowly, or what was made of them did. {advice}"
        )
    shown = bad or list(example_ids)
    examples = ", ".join(map(str, shown[:10])) + (" ..." if len(shown) > 10 else "")
    return DivergedError(
        f"Step {step + 1} is not finite: {place}; examples {examples} of the training split "
        f"{'have a non-finite loss' if bad else 'were in the batch'}. {advice}"
    )


def _first_place(
    model: nn.Module, task: Task, state: TrainState, batch: Tree, key: Key
) -> tuple[str | None, list[bool], Tree]:
    """Where the first non-finite value is, which examples have such a loss, and new collections."""
    rngs, layers_frozen = {"dropout": key}, frozen_layers(state.params, state.frozen)
    layers: list[str] = []

    def capture(module: nn.Module, method: str) -> bool:
        """Notes the layers in the order in which they end; trees are sorted by name instead."""
        layers.append("/".join((*module.path, method)))
        return method == "__call__"

    def losses(params: Tree):
        with as_evaluated(layers_frozen):
            logits, changed = model.apply(
                trees.merge({"params": params, **state.collections}, state.frozen),
                batch["image"],
                train=True,
                rngs=rngs,
                capture_intermediates=capture,
                mutable=["intermediates", *state.collections],
            )
        return task.losses(logits, batch), dict(changed)

    def total(params: Tree):
        values, changed = losses(params)
        return (values * batch["weight"]).sum(), (values, changed)

    (_, (values, changed)), gradients = jax.value_and_grad(total, has_aux=True)(state.params)
    flat = trees.flatten(changed.pop("intermediates"))
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
    place = None
    for kind, tree in sources:
        if path := trees.first_non_finite(tree):
            place = f"{kind} {path}"
            break
    collections = trees.partition(changed, trees.flatten(state.collections).__contains__)[0]
    return place, (~np.isfinite(np.asarray(values))).tolist(), collections
