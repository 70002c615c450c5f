"""Many steps in one call: same bits, any number of devices, one exchange a step."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_lab.analysis.cost import collectives_in
from cnn_lab.core import trees
from cnn_lab.distributed.mesh import make_mesh
from cnn_lab.models.lenet import lenet5
from cnn_lab.models.simple import mlp
from cnn_lab.optim.optimizers import OPTIMIZERS
from cnn_lab.tasks.classification import classification
from cnn_lab.training.state import make_init
from cnn_lab.training.step import make_train_step
from cnn_lab.training.stepper import Program, compile_train

IMAGE, BATCH, STEPS = (16, 16, 1), 16, 5
MODELS = {
    "lenet5": lenet5(10, dropout_rates=(0.0, 0.5, 0.5)),
    "mlp": mlp(10, (32,), dropout_rate=0.5),
}


def feed_as_it_is(device_arrays, raw_batch, key):
    return raw_batch


def noise_of(device_arrays, raw_batch, key):
    return {"noise": jax.random.normal(key)}


def feeds_of(num_steps: int = STEPS):
    random = np.random.default_rng(0)
    return {
        "image": random.normal(size=(num_steps, BATCH, *IMAGE)).astype(np.float32),
        "label": random.integers(0, 10, (num_steps, BATCH)).astype(np.int32),
        "weight": np.ones((num_steps, BATCH), np.float32),
    }


class Training:
    """A compiled training program on some devices, and fresh states for it."""

    def __init__(self, model: str, num_devices: int):
        transformation = OPTIMIZERS["adam"].make(optax.constant_schedule(1e-2))
        step = make_train_step(MODELS[model], classification("cross_entropy"), transformation)
        self._init = jax.jit(make_init(MODELS[model], transformation, IMAGE))
        self._mesh = make_mesh(num_devices)
        shapes = jax.eval_shape(self._init, jax.random.key(0))
        self.program: Program = compile_train(
            step, feed_as_it_is, self._mesh, shapes, {}, feeds_of()
        )

    def state(self):
        return self._mesh.put(self._init(jax.random.key(0)))

    def run(self, state, raw_batches, first_step: int, num_steps: int):
        raw_batches = self._mesh.put(raw_batches, self._mesh.batches)
        scalars = self._mesh.put((np.int32(first_step), np.int32(num_steps)))
        state, history, _ = self.program.call(state, {}, raw_batches, *scalars, {})
        return state, jax.device_get(history)

    def compiled_text(self) -> str:
        call: Any = self.program.call
        return call.as_text()


training = functools.cache(Training)  # compiling costs more than running


@pytest.mark.parametrize(
    ("name", "num_devices"),
    [("mlp", 2), ("mlp", 4), pytest.param("lenet5", 2, marks=pytest.mark.slow)],
)
def test_the_number_of_devices_does_not_change_what_is_learned(name, num_devices):
    alone, several = training(name, 1), training(name, num_devices)
    start = trees.flatten(jax.device_get(alone.state().params))
    (one, history), (other, found) = (
        t.run(t.state(), feeds_of(), 0, STEPS) for t in (alone, several)
    )
    wanted = trees.flatten(jax.device_get(one.params))
    assert int(one.step) == int(other.step) == STEPS
    for path, leaf in trees.flatten(jax.device_get(other.params)).items():
        # Sums over devices in another order; adam at rate 1e-2 moves weights by up to 5e-2.
        np.testing.assert_allclose(leaf, wanted[path], rtol=0, atol=1e-5, err_msg=path)
        assert float(abs(leaf - start[path]).max()) > 1e-2
    np.testing.assert_allclose(found["loss"][0], history["loss"][0], rtol=1e-5)
    np.testing.assert_array_equal(found["loss"][1], [BATCH] * STEPS)


@pytest.mark.parametrize("portions", [(1, 1, 1, 1, 1), (2, 3), (4, 1)])
def test_the_portions_do_not_change_a_bit(portions):
    several = training("mlp", 2)
    whole, history = several.run(several.state(), feeds_of(), 0, STEPS)
    state, done, losses = several.state(), 0, []
    for num_steps in portions:
        # What stands after the steps to run must not matter.
        raw_batches = jax.tree.map(lambda stack, at=done: np.roll(stack, -at, axis=0), feeds_of())
        state, part = several.run(state, raw_batches, done, num_steps)
        losses += part["loss"][0][:num_steps].tolist()
        assert not part["loss"][1][num_steps:].any()
        done += num_steps
    assert trees.digests(state) == trees.digests(whole)
    assert losses == history["loss"][0].tolist()


def test_one_dispatch_equals_single_steps_of_a_convolutional_net():
    several = training("lenet5", 2)
    whole, _ = several.run(several.state(), feeds_of(), 0, STEPS)
    state = several.state()
    for step in range(STEPS):
        raw_batches = jax.tree.map(lambda stack, at=step: np.roll(stack, -at, axis=0), feeds_of())
        state, _ = several.run(state, raw_batches, step, 1)
    assert trees.digests(state) == trees.digests(whole)


@pytest.mark.parametrize("bad_step", [0, 2, 4])
def test_nothing_runs_after_a_step_that_is_not_finite(bad_step):
    several, raw_batches = training("mlp", 2), feeds_of()
    raw_batches["image"][bad_step, 3] = np.nan
    state, history = several.run(several.state(), raw_batches, 0, STEPS)
    before, _ = several.run(several.state(), raw_batches, 0, bad_step)
    assert int(state.step) == bad_step
    assert trees.digests(state) == trees.digests(before)
    ran = [BATCH] * (bad_step + 1) + [0] * (STEPS - bad_step - 1)
    assert history["loss"][1].tolist() == ran
    assert np.isfinite(history["loss"][0]).tolist() == [step != bad_step for step in range(STEPS)]


def test_every_step_exchanges_gradients_and_metrics_at_once():
    several = training("lenet5", 2)
    found = collectives_in(several.compiled_text())
    assert found.keys() == {"all-reduce"}
    assert found["all-reduce"].count == 1
    # Three sums and counts of metrics; and the first kernel's gradient, of 6 x 5 x 5 values, is
    # exchanged as 6 x 5 x 12, the form in which `layers/kernels.py` computes it.
    values = trees.count(several.state().params) + 3 + 6 * 5 * (12 - 5)
    assert found["all-reduce"].num_bytes == 4 * values


def test_a_single_device_exchanges_nothing():
    alone = training("mlp", 1)
    assert not re.search(
        r"all-reduce|all-gather|all-to-all|collective-permute", alone.compiled_text()
    )
    assert alone.program.compile_seconds > 0
    assert alone.program.temporary_bytes > 0


def test_what_is_drawn_for_the_images_differs_from_step_to_step_and_from_the_models_draws():
    def step(state, batch):
        key = jax.random.fold_in(state.key, state.step)
        metrics = {
            "prepare": (jnp.sum(batch["noise"]), jnp.ones(())),
            "model": (jax.random.normal(key), jnp.ones(())),
        }
        return state.replace(step=state.step + 1), metrics

    mesh, state = make_mesh(1), training("mlp", 1).state()
    program = compile_train(step, noise_of, mesh, state, {}, feeds_of())
    scalars = mesh.put((np.int32(0), np.int32(STEPS)))
    raw_batches = mesh.put(feeds_of(), mesh.batches)
    _, history, _ = program.call(state, {}, raw_batches, *scalars, {})
    seen = {*history["prepare"][0].tolist(), *history["model"][0].tolist()}
    assert len(seen) == 2 * STEPS


def test_the_program_has_a_name_of_its_own_in_the_compilation_cache():
    several = training("mlp", 2)
    assert "HloModule jit_train" in several.compiled_text()
