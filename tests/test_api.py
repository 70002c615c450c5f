"""The public names of the package: their examples, and a notebook's way from arrays to answers."""

import doctest
import importlib
import inspect
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from PIL import Image
from refusals import refused
from sklearn.datasets import load_digits

import cnn_lab
from cnn_lab.core.errors import ConfigError, DataError, WorkdirError
from cnn_lab.tasks.classification import ClassPredictions
from cnn_lab.tasks.regression import NumberPredictions
from cnn_lab.transfer.convert import make_table, to_torch
from cnn_lab.transfer.naming import namings_of
from cnn_lab.transfer.weight_files import write_safetensors

DIGITS: Any = load_digits()
IMAGES, LABELS = DIGITS.images[:400] / 16, DIGITS.target[:400]
OTHERS = DIGITS.images[400:500] / 16, DIGITS.target[400:500]


def small(**train: Any) -> cnn_lab.ExperimentConfig:
    config = cnn_lab.ExperimentConfig()
    config.model.name, config.model.options = "mlp", {"hidden": (32,)}
    config.optim.name, config.optim.learning_rate = "adam", 0.003
    config.train.batch_size, config.train.num_epochs = 32, 8
    config.log.tensorboard = False
    for name, value in train.items():
        setattr(config.train, name, value)
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> cnn_lab.Run:
    """A classifier of digits that were handed over as arrays, with texts as labels."""
    data = cnn_lab.from_arrays(IMAGES, [f"digit {label}" for label in LABELS])
    return cnn_lab.train(small(), data, tmp_path_factory.mktemp("api") / "run")


@pytest.mark.parametrize("name", cnn_lab.__all__)
def test_every_public_name_has_a_docstring_and_its_example_runs(name: str):
    found = getattr(cnn_lab, name)
    assert inspect.getdoc(found)
    module = importlib.import_module(found.__module__)
    examples = doctest.DocTestFinder(recurse=False).find(found, name, globs=vars(module).copy())
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for example in examples:
        assert runner.run(example).failed == 0
    if inspect.isfunction(found):
        assert any(example.examples for example in examples), f"{name} has no example"


def test_importing_it_imports_nothing_heavy():
    code = "import sys, cnn_lab; print(sorted({'jax', 'numpy', 'absl'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "[]\n"
    assert set(cnn_lab.__all__) <= set(dir(cnn_lab))
    with pytest.raises(AttributeError, match="nothing_like_it"):
        cnn_lab.nothing_like_it  # noqa: B018 # pyright: ignore[reportAttributeAccessIssue]


def test_a_training_says_nothing_and_reads_no_flags(tmp_path: Path):
    code = (
        "import cnn_lab, numpy as np\n"
        "images = np.zeros((40, 8, 8), np.uint8)\n"
        "config = cnn_lab.ExperimentConfig()\n"
        "config.model.name, config.train.batch_size, config.train.num_epochs = 'linear', 8, 1\n"
        "data = cnn_lab.from_arrays(images, [0, 1] * 20)\n"
        f"run = cnn_lab.train(config, data, r'{tmp_path / 'a'}')\n"
        "run.predict(images[:2])\n"
        "from absl import flags\n"
        "assert not flags.FLAGS.is_parsed()\n"
        "print(run.status)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "--not_a_flag"], capture_output=True, text=True
    )
    assert (result.stdout, result.stderr, result.returncode) == ("finished\n", "", 0)


@pytest.mark.slow
def test_workers_need_no_flags(tmp_path: Path):
    script = tmp_path / "script.py"  # workers import it again
    script.write_text(
        "import cnn_lab, numpy as np\n"
        "if __name__ == '__main__':\n"
        "    config = cnn_lab.ExperimentConfig()\n"
        "    config.model.name, config.train.batch_size, config.train.num_epochs = 'linear', 8, 1\n"
        "    config.data.loader, config.data.num_workers = 'streaming', 1\n"
        "    data = cnn_lab.from_arrays(np.zeros((40, 8, 8), np.uint8), [0, 1] * 20)\n"
        f"    print(cnn_lab.train(config, data, r'{tmp_path / 'a'}').status)\n"
        "    from absl import flags\n"
        "    assert not flags.FLAGS.is_parsed()\n"
    )
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert (result.stdout, result.returncode) == ("finished\n", 0), result.stderr


def test_labels_may_be_texts_and_predictions_carry_them(run: cnn_lab.Run):
    assert run.class_names == tuple(f"digit {index}" for index in range(10))
    found = run.predict(OTHERS[0])
    assert isinstance(found, ClassPredictions)
    wanted = [f"digit {label}" for label in OTHERS[1]]
    assert np.mean([a == b for a, b in zip(found.names, wanted, strict=True)]) > 0.75
    np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-5)
    row = found.rows()[0]
    assert row == {"class": found.names[0], "probability": float(found.probabilities[0].max())}
    assert (found.labels == found.probabilities.argmax(1)).all()


def test_it_is_evaluated_on_what_it_held_out_and_on_other_data(run: cnn_lab.Run):
    held_out = run.evaluate()
    best = max(row["accuracy"] for row in run.metrics() if row["split"] == "validation")
    assert held_out["accuracy"] == best
    names = [f"digit {label}" for label in OTHERS[1]]
    everyone = [f"digit {index}" for index in range(10)]
    others = cnn_lab.from_arrays(OTHERS[0], OTHERS[1], class_names=everyone)
    metrics = run.evaluate(others)
    predicted = run.predict(OTHERS[0])
    assert isinstance(predicted, ClassPredictions)
    wanted = np.mean([a == b for a, b in zip(predicted.names, names, strict=True)])
    assert metrics["accuracy"] == pytest.approx(wanted)
    assert run.evaluate(others, batch_size=7) == pytest.approx(metrics)
    assert metrics.keys() == held_out.keys() - {"ece_scaled", "log_loss_scaled"}
    other = cnn_lab.from_arrays(OTHERS[0][:50], OTHERS[1][:50], class_names=everyone)
    assert run.evaluate(other)["accuracy"] == np.mean(
        [a == b for a, b in zip(predicted.names[:50], names[:50], strict=True)]
    )
    with refused(ConfigError, where="data", found=("cat", "dog")):
        run.evaluate(cnn_lab.from_arrays(OTHERS[0][:2], ["cat", "dog"]))
    with refused(ConfigError, where="split", found="test"):
        run.evaluate(others, "test")
    with refused(ConfigError, where="split", found="valid"):
        run.evaluate(split="valid")  # pyright: ignore[reportArgumentType]


def test_other_images_are_evaluated_in_the_networks_form(run: cnn_lab.Run):
    large = np.repeat(np.repeat(np.rint(OTHERS[0] * 255).astype(np.uint8), 2, 1), 2, 2)
    colour = np.repeat(large[..., None], 3, axis=3)
    everyone = [f"digit {index}" for index in range(10)]
    found = run.evaluate(cnn_lab.from_arrays(colour, OTHERS[1], class_names=everyone))
    predicted = run.predict(colour)
    assert isinstance(predicted, ClassPredictions)
    assert found["accuracy"] == np.mean(predicted.labels == OTHERS[1])


def test_a_run_is_opened_again_and_gives_its_parts(run: cnn_lab.Run):
    again = cnn_lab.load_run(run.workdir)
    assert again.status == "finished"
    assert "best accuracy" in repr(again)
    assert "mlp on arrays:data" in repr(again)
    inputs = again.preprocess(IMAGES[:3])
    logits: Any = again.model.apply(again.variables, inputs, train=False)
    found = again.predict(IMAGES[:3])
    assert isinstance(found, ClassPredictions)
    np.testing.assert_allclose(jax.nn.softmax(logits), found.probabilities, atol=1e-6)
    with refused(DataError, where="config.data.name", found="arrays:data"):
        again.evaluate()  # the arrays are not on the disk
    data = cnn_lab.from_arrays(IMAGES, [f"digit {label}" for label in LABELS])
    assert again.evaluate(data) == run.evaluate()
    assert cnn_lab.load_run(run.workdir, data=data).evaluate() == run.evaluate()
    with pytest.raises(WorkdirError):
        cnn_lab.load_run(run.workdir / "nothing")
    step = run.record["progress"]["step"]
    assert len(cnn_lab.load_run(run.workdir, step).predict(IMAGES[:2]).rows()) == 2
    for wrong in ("newest", 3):
        with refused(ConfigError, where="checkpoint", found=wrong):
            cnn_lab.load_run(run.workdir, wrong)


def test_a_finished_run_is_not_taken_for_one_on_other_arrays(run: cnn_lab.Run):
    data = cnn_lab.from_arrays(IMAGES, [f"digit {9 - label}" for label in LABELS])
    with refused(WorkdirError, where="workdir", found=str(run.workdir)):
        cnn_lab.train(small(), data, run.workdir)


def test_what_is_no_data_set_or_config_is_refused(run: cnn_lab.Run, tmp_path: Path):
    pair: Any = (IMAGES, LABELS)
    for call in (
        lambda: cnn_lab.train(small(), pair, tmp_path / "a"),
        lambda: run.evaluate(pair),
        lambda: run.finetune(pair),
    ):
        with refused(ConfigError, where="data", found="tuple"):
            call()
    config: Any = {"model": "mlp"}
    with refused(ConfigError, where="config", found="dict"):
        cnn_lab.train(config, cnn_lab.from_arrays(IMAGES, LABELS))


def test_named_maps_are_features(run: cnn_lab.Run):
    inputs = run.preprocess(IMAGES[:5])
    maps = cnn_lab.feature_maps(run.model, run.variables, inputs)
    for name, wanted in maps.items():
        np.testing.assert_allclose(run.features(IMAGES[:5], name), wanted, atol=1e-5)
    np.testing.assert_array_equal(
        run.features(IMAGES[:5]), run.features(IMAGES[:5], list(maps)[-1])
    )
    with refused(ConfigError, where="name", found="stage9", allowed=sorted(maps)):
        run.features(IMAGES[:5], "stage9")


def test_images_of_another_form_are_brought_to_the_networks(run: cnn_lab.Run):
    colour = np.repeat(np.rint(IMAGES[:2] * 255).astype(np.uint8)[..., None], 3, axis=3)
    found, wanted = run.predict(colour), run.predict(IMAGES[:2])
    assert isinstance(found, ClassPredictions)
    assert isinstance(wanted, ClassPredictions)
    np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=1e-5)
    assert len(run.predict(np.zeros((1, 20, 30), np.uint8)).rows()) == 1
    with refused(DataError, where="images", found=(0.0, 2.0)):
        run.predict(IMAGES[:2] * 2)
    with refused(DataError, where="images", found=(8, 8)):
        run.predict(IMAGES[0])
    with refused(DataError, where="images", found=(8, 8, 3)):
        run.predict(np.zeros((8, 8, 3), np.uint8))
    with refused(DataError, where="images", found=(0,)):
        run.predict([])


def test_numbers_are_predicted_in_their_unit(tmp_path: Path):
    brightness = IMAGES.mean((1, 2)) * 1000 + 5000
    config = small(num_epochs=25)
    config.task.name = "regression"
    data = cnn_lab.from_arrays(IMAGES, brightness, value_names=["brightness"])
    run = cnn_lab.train(config, data, tmp_path / "run")
    found = run.predict(OTHERS[0])
    assert isinstance(found, NumberPredictions)
    assert found.names == ("brightness",)
    true = OTHERS[0].mean((1, 2)) * 1000 + 5000
    errors = found.values[:, 0] - true
    assert np.abs(errors).mean() < 0.35 * np.abs(true - true.mean()).mean()
    metrics = run.evaluate(cnn_lab.from_arrays(OTHERS[0], true, value_names=["brightness"]))
    assert metrics["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-3)
    assert metrics["rmse"] == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-3)
    best = min(row["loss"] for row in run.metrics() if row["split"] == "validation")
    assert run.evaluate()["loss"] == pytest.approx(best)
    assert {"bias", "error_q90"} <= run.evaluate().keys()


def test_numbers_are_trained_further_and_what_is_for_classes_is_refused(tmp_path: Path):
    config = small(num_epochs=1)
    config.task.name = "regression"
    data = cnn_lab.from_arrays(IMAGES, LABELS / 2, value_names=["half"])
    run = cnn_lab.train(config, data, tmp_path / "run")
    tuned = run.finetune(cnn_lab.from_arrays(IMAGES[:60], LABELS[:60] * 3.0), tmp_path / "tuned")
    assert isinstance(tuned.predict(IMAGES[:2]), NumberPredictions)
    classes = run.finetune(cnn_lab.from_arrays(IMAGES[:60], LABELS[:60]), tmp_path / "classes")
    assert (classes.config.task.name, len(classes.class_names)) == ("classification", 10)
    where = "config.transfer.strategy"
    with refused(ConfigError, where=where, found="logistic"):
        run.finetune(data, tmp_path / "none", strategy="logistic")
    config.data.sampling = "balanced"
    with refused(ConfigError, where="config.data.sampling", found="balanced"):
        cnn_lab.train(config, data, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_head_without_a_backbone_is_trained_anew(tmp_path: Path):
    config = small(num_epochs=1)
    config.model.name, config.model.options = "linear", {}
    run = cnn_lab.train(config, cnn_lab.from_arrays(IMAGES, LABELS), tmp_path / "run")
    names = np.array(["small", "large"])[(LABELS > 4).astype(int)]
    data = cnn_lab.from_arrays(IMAGES, names)
    tuned = run.finetune(data, tmp_path / "tuned", strategy="head", config=config)
    assert tuned.class_names == ("large", "small")


def test_data_of_the_disk_are_opened_again_from_anywhere(tmp_path: Path, monkeypatch):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for index in range(20):
            pixels = np.full((8, 8), index + 100 * (name == "dog"), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    data = cnn_lab.load_dataset("folder:pets", data_dir="prepared")
    config = small(num_epochs=1, batch_size=8)
    run = cnn_lab.train(config, data, "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = cnn_lab.load_run(tmp_path / "run")
    assert again.config.data.name == f"folder:{tmp_path / 'pets'}"
    monkeypatch.chdir(tmp_path)
    wanted = run.evaluate()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert again.evaluate() == wanted


def test_an_interrupted_run_on_arrays_goes_on_after_a_restart(tmp_path: Path, monkeypatch):
    data = cnn_lab.from_arrays(IMAGES, LABELS)
    with monkeypatch.context() as patch:
        patch.setattr("cnn_lab.workdir.training_log.TrainingLog.training_row", _interrupt_once())
        assert cnn_lab.train(small(), data, tmp_path / "run").status == "interrupted"
    opened = cnn_lab.load_run(tmp_path / "run")
    with refused(DataError, where="config.data.name", found="arrays:data"):
        opened.resume()
    again = cnn_lab.from_arrays(IMAGES.copy(), LABELS.tolist())
    assert opened.resume(again).status == "finished"


def test_a_task_that_the_data_or_the_model_do_not_fit_is_refused(tmp_path: Path):
    data = cnn_lab.from_arrays(IMAGES, LABELS.astype(float))
    with refused(ConfigError, where="config.task.name", found="classification"):
        cnn_lab.train(small(), data, tmp_path / "a")
    config = small()
    config.model.name, config.model.options = "unet", {}
    with refused(ConfigError, where="config.model.name", found="unet"):
        cnn_lab.train(config, cnn_lab.from_arrays(IMAGES, LABELS), tmp_path / "a")
    config = small()
    config.task.name = "regresion"
    with refused(ConfigError, where="config.task.name", found="regresion", nearest=("regression",)):
        cnn_lab.train(config, data, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_ctrl_c_leaves_a_run_that_goes_on(tmp_path: Path, monkeypatch):
    data = cnn_lab.from_arrays(IMAGES, LABELS)
    monkeypatch.setattr("cnn_lab.workdir.training_log.TrainingLog.training_row", _interrupt_once())
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run = cnn_lab.train(small(), data, tmp_path / "run")
    assert run.status == "interrupted"
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert run.resume().status == "finished"
    whole = cnn_lab.train(small(), data, tmp_path / "whole")
    for a, b in zip(
        jax.tree.leaves(run.resume().variables), jax.tree.leaves(whole.variables), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def _interrupt_once():
    from cnn_lab.workdir.training_log import TrainingLog

    original, done = TrainingLog.training_row, []

    def row(self, step, metrics):
        if not done:
            done.append(step)
            signal.raise_signal(signal.SIGINT)
        return original(self, step, metrics)

    return row


def test_it_trains_in_a_thread_too(tmp_path: Path):
    found = []
    data = cnn_lab.from_arrays(IMAGES, LABELS)
    thread = threading.Thread(
        target=lambda: found.append(cnn_lab.train(small(num_epochs=1), data, tmp_path / "run"))
    )
    thread.start()
    thread.join()
    assert [run.status for run in found] == ["finished"]


def test_a_run_is_trained_further_on_other_classes(run: cnn_lab.Run, tmp_path: Path):
    names = np.array(["small", "large"])[(LABELS > 4).astype(int)]
    data = cnn_lab.from_arrays(IMAGES, names)
    tuned = run.finetune(data, tmp_path / "tuned", strategy="logistic")
    assert tuned.class_names == ("large", "small")
    assert tuned.record["transfer"]["source"] == str(run.workdir.resolve())
    found = tuned.predict(OTHERS[0])
    assert isinstance(found, ClassPredictions)
    wanted = np.array(["small", "large"])[(OTHERS[1] > 4).astype(int)]
    assert np.mean(np.array(found.names) == wanted) > 0.7
    head = run.finetune(data, tmp_path / "head", strategy="head", config=small(num_epochs=1))
    assert head.config.transfer is not None
    assert (head.config.transfer.strategy, head.config.train.num_epochs) == ("head", 1)
    before, after = run.variables["params"]["backbone"], head.variables["params"]["backbone"]
    jax.tree.map(np.testing.assert_array_equal, before, after)
    with refused(ConfigError, where="config.transfer.strategy", found="heads"):
        run.finetune(data, tmp_path / "none", strategy="heads")


def test_without_a_folder_each_training_has_a_new_one(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = cnn_lab.from_arrays(IMAGES, LABELS, name="my digits")
    folders = [cnn_lab.train(small(num_epochs=1), data).workdir for _ in range(2)]
    assert folders == [Path("runs/mlp-my-digits-1"), Path("runs/mlp-my-digits-2")]


def test_a_loop_of_ones_own_needs_images_and_labels_alone():
    model = cnn_lab.create_model("mlp", num_classes=10, hidden=(16,))
    optimizer = optax.adam(0.01)
    state = cnn_lab.init_state(model, optimizer, (8, 8, 1))
    step = jax.jit(
        cnn_lab.make_train_step(model, cnn_lab.create_task("classification", 10), optimizer)
    )
    batch = {"image": IMAGES[:64, :, :, None].astype(np.float32), "label": LABELS[:64]}
    losses = []
    for _ in range(30):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"][0] / metrics["loss"][1]))
    assert losses[-1] < 0.3 * losses[0]


def test_the_names_of_a_task_are_several():
    with refused(ConfigError, where="names", found="cat"):
        cnn_lab.create_task("classification", "cat")


def test_unknown_names_offer_the_nearest():
    with refused(ConfigError, found="lenet", where="name"):
        cnn_lab.create_model("lenet")
    with refused(ConfigError, found="activaton", where="options", nearest=("activation",)):
        cnn_lab.create_model("lenet5", activaton="relu")
    assert cnn_lab.list_models("vgg1?") == ["vgg11", "vgg13", "vgg16", "vgg19"]


def test_published_weights_become_a_run(tmp_path: Path):
    model = cnn_lab.create_model("squeezenet1_1")
    variables = cnn_lab.init_variables(model, (224, 224, 3))
    table = make_table(model, variables, namings_of("squeezenet1_1")["torchvision"])
    write_safetensors(tmp_path / "weights.safetensors", to_torch(variables, table), {})
    run = cnn_lab.import_weights(
        "squeezenet1_1", tmp_path / "weights.safetensors", tmp_path / "run"
    )
    jax.tree.map(np.testing.assert_array_equal, run.variables, variables)
    assert run.class_names[-1] == "class_999"
    with pytest.raises(WorkdirError):
        cnn_lab.import_weights("squeezenet1_1", tmp_path / "weights.safetensors", tmp_path / "run")
