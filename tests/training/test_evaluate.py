"""An evaluation sees every example once, however they are grouped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from cnn_lab.core.errors import TrainingError
from cnn_lab.data.loaders.in_memory import InMemoryLoader
from cnn_lab.data.normalize import Preprocess
from cnn_lab.data.sampler import Sampler
from cnn_lab.distributed.mesh import make_mesh
from cnn_lab.models.simple import mlp
from cnn_lab.tasks.classification import classification
from cnn_lab.training import stepper
from cnn_lab.training.evaluate import EvaluationInterrupted, Evaluator

NUM_EXAMPLES, SHAPE, MEAN, STD = 100, (4, 5, 1), 0.25, 0.5
MODEL, TASK = mlp(10, (8,)), classification("cross_entropy")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    # Three more than are evaluated: they must not be seen.
    return np.random.default_rng(0).integers(0, 256, (NUM_EXAMPLES + 3, *SHAPE), np.uint8)


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 10, NUM_EXAMPLES + 3).astype(np.int32)


@pytest.fixture(scope="module")
def variables():
    return MODEL.init(jax.random.key(0), jnp.zeros((1, *SHAPE)), train=False)


@pytest.fixture(scope="module")
def wanted(images, labels, variables) -> dict[str, float]:
    """The metrics in double precision, by numpy."""
    x = (images[:NUM_EXAMPLES].astype(np.float64) / 255 - MEAN) / STD
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    hidden = p["backbone"]["dense1"]
    x = np.maximum(x.reshape(NUM_EXAMPLES, -1) @ hidden["kernel"] + hidden["bias"], 0)
    logits = x @ p["head"]["output"]["kernel"] + p["head"]["output"]["bias"]
    own = logits[np.arange(NUM_EXAMPLES), labels[:NUM_EXAMPLES]]
    return {
        "loss": float(np.mean(np.log(np.exp(logits).sum(1)) - own)),
        "accuracy": float(np.mean(logits.argmax(1) == labels[:NUM_EXAMPLES])),
    }


def evaluator(images, labels, batch_size: int, num_devices: int, max_steps=None):
    mesh = make_mesh(num_devices)
    sampler = Sampler(np.arange(NUM_EXAMPLES), batch_size, None)
    device_arrays = mesh.put({"image": images, "label": labels})
    preprocess = Preprocess((MEAN,), (STD,), 0)
    loader = InMemoryLoader(
        device_arrays, preprocess, sampler, max_steps or sampler.steps_per_epoch
    )
    return Evaluator(MODEL.apply, TASK, loader, mesh), mesh, loader


@pytest.mark.parametrize("num_devices", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [1, 7, 64, NUM_EXAMPLES])
def test_the_batch_size_and_the_devices_do_not_matter(
    images, labels, variables, wanted, batch_size, num_devices
):
    shared = -(-batch_size // num_devices) * num_devices  # devices must divide a batch
    evaluate, mesh, _ = evaluator(images, labels, shared, num_devices)
    found = evaluate(mesh.put(variables))
    assert found["accuracy"] == wanted["accuracy"]
    assert found["loss"] == pytest.approx(wanted["loss"], abs=1e-6)  # 100 roundings of float32


@pytest.mark.parametrize("max_steps", [1, 3])
def test_neither_does_the_length_of_a_stack(images, labels, variables, wanted, max_steps):
    evaluate, mesh, _ = evaluator(images, labels, 8, 2, max_steps)  # 13 steps
    found = evaluate(mesh.put(variables))
    assert found["accuracy"] == wanted["accuracy"]
    assert found["loss"] == pytest.approx(wanted["loss"], abs=1e-6)


def test_it_is_compiled_once_and_sees_new_weights(images, labels, variables, wanted):
    evaluate, mesh, _ = evaluator(images, labels, 64, 1)
    program = evaluate.compile(variables)
    placed = mesh.put(variables)
    first = evaluate(placed)
    assert evaluate.compile(variables) is program
    zeros = jax.tree.map(jnp.zeros_like, placed)
    assert evaluate(zeros)["loss"] == pytest.approx(np.log(10), abs=1e-6)
    assert evaluate(placed) == first


def test_a_wrong_count_is_never_reported_as_a_result(images, labels, variables, monkeypatch):
    evaluate, mesh, loader = evaluator(images, labels, 64, 1)
    load = loader.load

    def without_the_first_example(first_step: int, num_steps: int):
        raw_batches = load(first_step, num_steps)
        raw_batches["weight"][0, 0] *= first_step > 0
        return raw_batches

    monkeypatch.setattr(loader, "load", without_the_first_example)
    with refused(TrainingError, found={"accuracy": 99, "loss": 99}, allowed="100"):
        evaluate(mesh.put(variables))


def test_where_an_evaluation_is_cut_changes_no_bit(images, labels, variables, monkeypatch):
    found = []
    for seconds, growth in [(1.0, 4), (1e-9, 4), (1e9, 1000)]:
        monkeypatch.setattr(stepper, "SECONDS_PER_CALL", seconds)
        monkeypatch.setattr(stepper, "GROWTH", growth)
        evaluate, mesh, _ = evaluator(images, labels, 8, 2)  # 13 steps
        placed = mesh.put(variables)
        found += [evaluate(placed), evaluate(placed)]
    assert all(metrics == found[0] for metrics in found)


def test_a_quick_evaluation_becomes_one_call(images, labels, variables, monkeypatch):
    evaluate, mesh, loader = evaluator(images, labels, 8, 2)
    placed, lengths, load = mesh.put(variables), [], loader.load
    monkeypatch.setattr(loader, "load", lambda f, n: lengths.append(n) or load(f, n))
    evaluate(placed)
    assert lengths == [1, 4, 8]
    evaluate(placed)
    assert lengths[3:] == [13]


def test_an_evaluation_stops_between_calls(images, labels, variables):
    evaluate, mesh, _ = evaluator(images, labels, 8, 1, max_steps=3)
    placed, answers = mesh.put(variables), iter([False, False, True])
    evaluate.compile(variables).result()  # which could be asked about too
    with pytest.raises(EvaluationInterrupted):
        evaluate(placed, lambda: next(answers))
    assert list(answers) == []
    assert evaluate(placed) == evaluator(images, labels, 8, 1, max_steps=3)[0](placed)


def test_the_program_has_a_name_of_its_own_in_the_compilation_cache(images, labels, variables):
    evaluate, _, _ = evaluator(images, labels, 64, 1)
    assert "HloModule jit_evaluate" in evaluate.compile(variables).result().text
