"""The first state of a training: Linen's initial values, on whatever devices."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from staged import config, tuned

from cnn_lab.config import AverageConfig, MeshConfig
from cnn_lab.core import trees
from cnn_lab.distributed import mesh as meshes
from cnn_lab.experiment.build import build_experiment
from cnn_lab.experiment.experiment import Experiment
from cnn_lab.experiment.initialization import complete_config
from cnn_lab.training.averaging import evaluated_variables
from cnn_lab.training.state import TrainState

pytestmark = pytest.mark.usefixtures("staged_model")
SEED = 3


def digests(tree: Any) -> dict[str, str]:
    return trees.digests(jax.tree.map(np.asarray, tree))


def linen_variables(experiment: Experiment) -> Any:
    params_key, _ = jax.random.split(jax.random.key(SEED))
    images = jnp.zeros((1, *experiment.network.input_shape))
    init = lambda key: dict(experiment.network.model.init(key, images, train=False))  # noqa: E731
    return jax.jit(init)(params_key)


def assert_may_be_given_away(state: TrainState, shapes: TrainState):
    """A step that gives the state away changes each array once, whatever memory they share."""
    assert jax.tree.structure(state) == jax.tree.structure(shapes)
    state = state.replace(key=jax.random.key_data(state.key))
    wanted = jax.tree.map(lambda leaf: np.asarray(leaf) + 1, state)
    step = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    assert digests(step(state)) == digests(wanted)


@pytest.mark.parametrize("num_devices", [1, 4])
@pytest.mark.parametrize("fsdp", [False, True])
def test_a_training_from_scratch(
    num_devices: int,
    fsdp: bool,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(meshes, "MIN_SHARDED_VALUES", 16)
    experiment = build_experiment(
        config(
            average=AverageConfig(kind="ema"), mesh=MeshConfig(num_devices=num_devices, fsdp=fsdp)
        )
    )
    state = experiment.init_state(SEED)
    wanted = linen_variables(experiment)
    for found in (evaluated_variables(state), {"params": state.params, **state.collections}):
        assert digests(found) == digests(wanted)
    assert not any(leaf.any() for leaf in jax.tree.leaves(state.opt_state))
    _, run_key = jax.random.split(jax.random.key(SEED))
    assert (jax.random.key_data(state.key) == jax.random.key_data(run_key)).all()
    for leaf in jax.tree.leaves(state.params):
        assert leaf.sharding.is_equivalent_to(experiment.mesh.of(leaf.shape), leaf.ndim)
    parts = [not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.opt_state)]
    assert any(parts) == (fsdp and num_devices > 1)
    assert_may_be_given_away(state, experiment.state_shapes())


@pytest.mark.parametrize("strategy", ["head", "gradual", "all"])
def test_a_training_from_other_weights(strategy: str, source: Path):
    wanted = tuned(source, strategy, transfer={"fresh": "^head/"})
    wanted.train.num_epochs = 4  # all stages are trained in the last one
    experiment = build_experiment(complete_config(wanted))
    assert experiment.initialization is not None
    state, initial = experiment.init_state(SEED), linen_variables(experiment)
    given = experiment.initialization.pretrained.variables
    before = digests(given)
    assert digests(evaluated_variables(state)) == digests(trees.merge(initial, given))
    assert_may_be_given_away(state, experiment.state_shapes())
    assert digests(given) == before
    for phase in range(len(experiment.phases)):
        shapes = experiment.state_shapes(phase)
        variables = trees.flatten(evaluated_variables(shapes))
        assert variables.keys() == trees.flatten(initial).keys()
