"""The learning-rate range test: on losses made by hand, and on real digits."""

import functools
import json
import math

import numpy as np
import pytest
from refusals import refused

from cnn_lab.analysis.lr_range import analyse
from cnn_lab.cli import runtime
from cnn_lab.cli.main import main
from cnn_lab.config import DataConfig, ExperimentConfig, ModelConfig, OptimConfig, TrainConfig
from cnn_lab.core.errors import ConfigError, TrainingError
from cnn_lab.data.datasets.catalog import open_dataset
from cnn_lab.data.loaders.in_memory import InMemoryLoader
from cnn_lab.runs.lr_finder import LossRise, find_rate
from cnn_lab.training import stepper


def small(**optim) -> ExperimentConfig:
    return ExperimentConfig(
        data=DataConfig(num_train=256, num_validation=0),
        model=ModelConfig(name="linear"),
        optim=OptimConfig(**{"name": "sgd", "learning_rate": 123.0, **optim}),
        train=TrainConfig(num_epochs=1, batch_size=32),
    )


def find(config: ExperimentConfig, **options):
    said: list[str] = []
    found = find_rate(config, functools.partial(open_dataset), said.append, **options)
    return found, said


def test_the_steepest_fall_and_the_lowest_loss_of_a_valley():
    rates = np.geomspace(1e-5, 10, 241)  # 40 a factor of ten
    # A step down of width 1/4 around 1e-2, and up again around 1.
    place = np.log10(rates)
    losses = 1 - 1 / (1 + np.exp(-(place + 2) * 8)) + 3 / (1 + np.exp(-place * 8))
    found = analyse(rates, losses)
    assert np.log10(found.steepest) == pytest.approx(-2, abs=0.05)
    assert -1.5 < np.log10(found.lowest) < -0.5
    assert not found.still_falling


def test_noise_does_not_decide():
    rates = np.geomspace(1e-5, 1, 201)
    losses = 1 - 1 / (1 + np.exp(-(np.log10(rates) + 2) * 8))
    noise = np.random.default_rng(0).normal(0, 0.03, len(losses))
    found = analyse(rates, losses + noise)
    assert np.log10(found.steepest) == pytest.approx(-2, abs=0.2)


def test_a_loss_that_only_falls_is_said_to():
    rates = np.geomspace(1e-5, 1, 101)
    assert analyse(rates, np.linspace(2, 1, 101)).still_falling


def test_a_loss_that_never_falls_is_an_error():
    text = "The loss never clearly fell between rates of 1e-05 and 1;"
    with pytest.raises(TrainingError, match=f"^{text}"):
        analyse(np.geomspace(1e-5, 1, 50), np.linspace(1, 2, 50))


@pytest.mark.parametrize("seed", range(10))
def test_noise_is_no_fall_and_a_small_fall_within_it_is(seed):
    noise = np.random.default_rng(seed).normal(0, 0.05, 200)
    rates = np.geomspace(1e-7, 1e-5, 200)
    with refused(TrainingError):
        analyse(rates, 2.4 + noise)
    found = analyse(rates, 2.4 + noise - 0.2 / (1 + np.exp(-np.linspace(-8, 8, 200))))
    assert 3e-7 < found.steepest < 3e-6


def test_tens_of_thousands_of_steps_are_judged_at_once():
    rates = np.geomspace(1e-5, 10, 50_001)
    place = np.log10(rates)
    losses = 1 - 1 / (1 + np.exp(-(place + 2) * 8)) + 3 / (1 + np.exp(-place * 8))
    losses += np.random.default_rng(0).normal(0, 0.3, len(losses))
    found = analyse(rates, losses)
    assert np.log10(found.steepest) == pytest.approx(-2, abs=0.1)
    assert -1.5 < np.log10(found.lowest) < -0.5
    rise = LossRise(len(losses))
    assert len([loss for loss in losses if rise.until_risen([loss])]) < len(losses)
    assert rise.has_risen


def test_means_near_the_ends_are_of_fewer_neighbours():
    losses = np.random.default_rng(0).normal(2, 0.1, 60) - np.linspace(0, 1, 60)
    found = analyse(np.geomspace(1e-3, 1, 60), losses)
    width = 0.02 * 60
    weights = np.exp(-0.5 * ((np.arange(60)[:, None] - np.arange(60)) / width) ** 2)
    expected = weights @ losses / weights.sum(axis=1)
    np.testing.assert_allclose(found.smoothed, expected, rtol=1e-5)


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_the_step_at_which_the_loss_has_risen_does_not_depend_on_how_many_are_shown(at_once):
    losses = np.concatenate([np.linspace(2, 1, 100), np.geomspace(1, 100, 50), np.ones(50)])
    losses += np.random.default_rng(0).normal(0, 0.1, 200)
    rise, seen = LossRise(200), []
    for first in range(0, 200, at_once):
        seen += rise.until_risen(losses[first : first + at_once])
    assert rise.has_risen
    # Above 1.5 times the lowest after 5 steps, and above the first loss, 2, after 8; the mean of
    # about the last 4 is somewhat late. What comes down again later is not looked at.
    assert seen == losses[: len(seen)].tolist()
    assert 108 < len(seen) < 118


def test_noise_is_no_rise():
    rise = LossRise(200)
    losses = np.random.default_rng(0).normal(2, 0.4, 200)
    assert rise.until_risen(losses) == losses.tolist()
    assert not rise.has_risen


def test_on_digits_the_suggestion_trains_and_what_is_beyond_diverges():
    found, said = find(small(), lowest=1e-5, highest=1e3)
    assert 1e-2 < found.steepest < found.lowest < 10
    assert len(found.losses) < 200  # it stopped when the loss had risen
    assert said[-1] == f"Stopped after {len(found.losses)} of 200 steps."
    again, _ = find(small(learning_rate=1e-9), lowest=1e-5, highest=1e3)
    np.testing.assert_array_equal(again.losses, found.losses)  # its own rate does not matter


def test_it_goes_on_over_epochs_and_both_pipelines_agree():
    config = small()  # 8 steps an epoch
    device_arrays, _ = find(config, lowest=1e-4, highest=1e-1, num_steps=30)
    config.data.loader = "streaming"
    streaming, _ = find(config, lowest=1e-4, highest=1e-1, num_steps=30)
    assert len(device_arrays.losses) == 30
    np.testing.assert_allclose(streaming.losses, device_arrays.losses, rtol=1e-5)


def test_where_calls_end_changes_nothing(monkeypatch):
    sizes: list[int] = []
    raw_batch = InMemoryLoader.load

    def counted(self, first_step, num_steps):
        sizes.append(num_steps)
        return raw_batch(self, first_step, num_steps)

    monkeypatch.setattr(InMemoryLoader, "load", counted)
    found = {}
    for seconds, growth in ((0.0, 4), (1e9, 4), (1e9, 10_000)):
        sizes.clear()
        monkeypatch.setattr(stepper, "SECONDS_PER_CALL", seconds)
        monkeypatch.setattr(stepper, "GROWTH", growth)
        result, _ = find(small(), lowest=1e-5, highest=1e3)
        found[tuple(sizes)] = result
    ones, growing, longest = found
    assert set(ones) == {1}
    assert growing[:4] == (1, 4, 16, 64)
    assert longest == (1, 128, 71)  # the config's longest call, then what is left
    for result in found.values():
        np.testing.assert_array_equal(result.losses, found[ones].losses)
        assert (result.steepest, result.lowest) == (found[ones].steepest, found[ones].lowest)
    assert len(found[ones].losses) == len(ones) < 200


@pytest.mark.parametrize(
    ("options", "where", "found"),
    [
        ({"lowest": 0.0}, "--lowest and --highest", (0.0, 10.0)),
        ({"lowest": 1.0, "highest": 0.1}, "--lowest and --highest", (1.0, 0.1)),
        ({"highest": math.inf}, "--lowest and --highest", (1e-6, math.inf)),
        ({"lowest": math.nan}, "--lowest and --highest", None),
        ({"highest": math.nan}, "--lowest and --highest", None),
        ({"num_steps": 3}, "--num_steps", 3),
    ],
)
def test_limits_that_cannot_be(options, where, found):
    with refused(ConfigError, where=where, **({} if found is None else {"found": found})):
        find(small(), **options)


def test_the_command_draws_and_suggests(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runtime, "start", lambda _: None)
    out = tmp_path / "rates.png"
    options = ["--config.model.options={}", "--config.model.name=linear", "--num_steps=40"]
    assert main(["lr-find", "--config=experiments/digits/lenet5.py", f"--out={out}", *options]) == 0
    text = capsys.readouterr().out
    rate = float(text.partition("--config.optim.learning_rate=")[2].partition("\n")[0])
    values = json.loads(out.with_suffix(".json").read_text())
    assert values["steepest"] == pytest.approx(rate, rel=0.05)
    assert len(values["rates"]) == len(values["losses"]) <= 40
    assert out.read_bytes().startswith(b"\x89PNG")


def test_the_picture_must_be_one(capsys):
    assert main(["lr-find", "--config=experiments/digits/lenet5.py", "--out=rates.txt"]) == 2
    assert (
        capsys.readouterr().err
        == "error: --out must be a file that ends in .png; found 'rates.txt'.\n"
    )
