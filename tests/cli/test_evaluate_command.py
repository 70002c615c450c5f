"""`cnn-lab evaluate` from the command line: one run, several, checkpoints, ensembles, mistakes."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import refusals
from PIL import Image

from cnn_lab.cli import runtime
from cnn_lab.cli.main import main
from cnn_lab.core.errors import ConfigError
from cnn_lab.runs import split_runner
from cnn_lab.runs.comparable import Comparable, EvaluationOptions, check_alike, read_runs
from cnn_lab.runs.evaluate import evaluate_runs
from cnn_lab.runs.select import common_folder, find_checkpoints, find_workdirs, folder_of_results
from cnn_lab.tasks.classification import Classification
from cnn_lab.training.evaluate import SplitPredictor
from cnn_lab.workdir.run_dir import read_record

EXPERIMENT = """
from cnn_lab.config import *

def get_config():
    return ExperimentConfig(
        data=DataConfig(name="digits", validation_fraction=0.2),
        model=ModelConfig(name="mlp", options={"hidden": (8,)}),
        optim=OptimConfig(name="adam", learning_rate=5e-3),
        train=TrainConfig(num_epochs=2, batch_size=64),
        log=LogConfig(tensorboard=False),
    )
"""
RUNS = {
    "runs/seed1": ("seed=1",),
    "runs/seed2": ("seed=2",),
    "runs/seed10": ("seed=10",),
    "wide": ("model.options.hidden=(12,)",),
    "animals": ("data.name=folder:{world}/animals_images", "train.batch_size=4"),
}
# The first run with other data settings, as if it had been trained with them.
COPIES: dict[str, dict[str, Any]] = {
    "streamed": {"loader": "streaming"},
    "other_split": {"split_seed": 1},
    "all": {"validation_fraction": 0.0},
}
NUM_VALIDATION, NUM_TEST = 287, 360


@pytest.fixture(autouse=True)
def _calm(monkeypatch: pytest.MonkeyPatch):
    """Leaves this process's devices and caches as they are."""
    monkeypatch.setattr(runtime, "start", lambda _: None)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained runs, which no test changes."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "tiny.py").write_text(EXPERIMENT)
    for index in range(24):
        path = folder / f"animals_images/{('cat', 'dog')[index % 2]}/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 255, (8, 8), np.uint8)
        Image.fromarray(pixels).save(path)
    patch = pytest.MonkeyPatch()
    patch.setattr(runtime, "start", lambda _: None)
    for name, overrides in RUNS.items():
        flags = [f"--config.{text.format(world=folder)}" for text in overrides]
        command = ["train", f"--config={folder}/tiny.py", f"--workdir={folder}/{name}", *flags]
        assert main(command) == 0
    patch.undo()
    for name, settings in COPIES.items():
        shutil.copytree(folder / "runs/seed1", folder / name)
        config = json.loads((folder / name / "config.json").read_text())
        config["data"].update(settings)
        (folder / name / "config.json").write_text(json.dumps(config))
    (folder / "runs/notes").mkdir()  # no run
    return folder


@pytest.fixture
def runs(world: Path, tmp_path: Path) -> Path:
    """A copy of the runs."""
    return Path(shutil.copytree(world, tmp_path / "world"))


@pytest.fixture
def accepted(capfd):
    """Runs `evaluate` that must succeed and returns what it printed."""

    def run(*arguments: Any) -> str:
        capfd.readouterr()
        status = main(["evaluate", *map(str, arguments)])
        output, errors = capfd.readouterr()
        assert status == 0, errors
        return output

    return run


@pytest.fixture
def refused(capfd):
    """Runs `evaluate` that must be refused and returns its one sentence."""

    def run(*arguments: Any) -> str:
        capfd.readouterr()
        status = main(["evaluate", *map(str, arguments)])
        output, errors = capfd.readouterr()
        assert status == 2, output
        assert "Traceback" not in errors
        (sentence,) = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert sentence[-1] in ".?)"
        return sentence

    return run


def figures(folder: Path, split: str = "validation") -> dict[str, Any]:
    return json.loads((folder / f"evaluation_{split}.json").read_text())


def line(output: str, name: str) -> str:
    (found,) = [text for text in output.splitlines() if text.split()[:1] == [name]]
    return found


def test_one_run_is_told_and_written(accepted, runs: Path):
    run = runs / "runs/seed1"
    output = accepted(f"--workdir={run}")
    lines = output.splitlines()
    assert lines[0].startswith(f"validation split, {NUM_VALIDATION} images, checkpoint ")
    values = figures(run)
    (network,) = values["networks"]
    metrics = network["metrics"]
    assert line(output, "accuracy") == f"  accuracy     {metrics['accuracy']:.6f}"
    assert line(output, "loss") == f"  loss         {metrics['loss']:.6f}"
    assert metrics["log_loss"] == pytest.approx(metrics["loss"], rel=1e-5)
    assert line(output, "errors").startswith(f"  errors       {network['num_errors']} (")
    assert metrics["accuracy"] == (NUM_VALIDATION - network["num_errors"]) / NUM_VALIDATION
    assert f"{network['intervals']['accuracy']['low']:.4f} to" in line(output, "interval")
    assert "2,000 resamples" in line(output, "interval")
    for name in ("top5", "macro_f1", "brier", "ece"):
        assert f"{metrics[name]:.6f}" in line(output, name)
    assert "each half judged by the other's" in line(output, "ece")
    scaled = f"{metrics['ece_scaled']:.4f}, and log loss {metrics['log_loss_scaled']:.4f}, at temp"
    assert scaled in line(output, "ece")
    for name in ("top5", "macro_f1", "log_loss", "brier"):
        bounds = network["intervals"][name]
        assert f"({bounds['low']:.4f} to {bounds['high']:.4f})" in line(output, name)
    assert network["temperature"]["fitted_on"] == "cross-fitted"
    assert f"  page         {run / 'evaluation_validation.html'}" in lines
    best = max(
        (json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()),
        key=lambda row: row["accuracy"] if row["split"] == "validation" else -1,
    )
    assert metrics["accuracy"] == best["accuracy"]
    assert metrics["loss"] == pytest.approx(best["loss"])


def test_python_gives_the_figures_of_the_command(accepted, runs: Path):
    run = runs / "runs/seed1"
    accepted(f"--workdir={run}", "--bootstrap=0")
    results = evaluate_runs(read_runs([run]), options=EvaluationOptions(num_resamples=0))
    assert results.to_json()["networks"] == figures(run)["networks"]
    assert results.num_test_openings == ()
    unknown: Any = "tset"
    allowed = "train, validation or test"
    with refusals.refused(ConfigError, where="--split", found=unknown, allowed=allowed):
        EvaluationOptions(split=unknown)


def test_resamples_can_be_left_out_and_files_go_elsewhere(accepted, runs: Path, tmp_path: Path):
    run, out = runs / "runs/seed1", tmp_path / "new/place"
    output = accepted(f"--workdir={run}", "--bootstrap=0", f"--out={out}", "--batch_size=33")
    assert "interval" not in output
    assert figures(out)["networks"][0]["intervals"] == {}
    assert (out / "evaluation_validation.html").exists()
    assert not (run / "evaluation_validation.json").exists()


def test_streaming_gives_the_same_figures(accepted, runs: Path):
    values = []
    for name in ("runs/seed1", "streamed"):
        accepted(f"--workdir={runs / name}", "--batch_size=32")
        (network,) = figures(runs / name)["networks"]
        values.append({k: v for k, v in network.items() if k != "workdir"})
    assert values[0]["confusions"] == values[1]["confusions"]
    assert values[0]["metrics"] == pytest.approx(values[1]["metrics"])


def test_test_is_opened_once_and_the_temperature_is_that_of_validation(accepted, runs: Path):
    run = runs / "runs/seed1"
    output = accepted(f"--workdir={run}", "--split=test")
    assert output.startswith(f"test split, {NUM_TEST} images, checkpoint ")
    assert "fitted on validation" in line(output, "ece")
    assert "the test split of this run has now been opened 1 time\n" in output
    (opening,) = read_record(run)["test_openings"]
    assert opening.keys() == {"time", "step", "tta", "loss", "accuracy"}
    assert opening["tta"] == "none"
    assert f"  report       {run / 'report.html'}" in output
    fitted = figures(run, "test")["networks"][0]["temperature"]
    assert fitted["fitted_on"] == "validation"
    accepted(f"--workdir={run}")
    assert figures(run)["networks"][0]["temperature"]["value"] == fitted["value"]
    assert len(read_record(run)["test_openings"]) == 1


def test_a_run_that_held_nothing_out_has_no_temperature(accepted, runs: Path):
    output = accepted(f"--workdir={runs / 'all'}", "--split=test")
    assert line(output, "ece").endswith(
        "(no temperature: there are no validation examples to fit it on)"
    )
    (network,) = figures(runs / "all", "test")["networks"]
    assert "temperature" not in network
    assert "ece_scaled" not in network["metrics"]


def test_views_are_averaged_and_marked(accepted, runs: Path):
    run = runs / "runs/seed1"
    plain = accepted(f"--workdir={run}", "--split=test")
    seen = accepted(f"--workdir={run}", "--split=test", "--tta=shifts", "--tta_pixels=2")
    assert ", tta shifts by 2 px, " in seen.splitlines()[0]
    assert "loss  " in plain
    assert "\n  loss  " not in seen  # of averaged probabilities it would be another one
    assert line(seen, "log_loss") != line(plain, "log_loss")
    assert figures(run, "test")["tta"] == "none"  # as it was before
    assert figures(run, "test_shifts_by_2_px")["tta"] == "shifts by 2 px"
    openings = read_record(run)["test_openings"]
    assert [opening["tta"] for opening in openings] == ["none", "shifts by 2 px"]
    assert "<td>shifts by 2 px</td>" in (run / "report.html").read_text()


def test_runs_are_compared_and_averaged(accepted, runs: Path):
    pattern = f"{runs}/runs/seed*"
    output = accepted(f"--workdir={pattern}", "--ensemble", "--bootstrap=100")
    head, names, *rows = output.splitlines()
    assert head == f"validation split, {NUM_VALIDATION} images, 3 runs"
    assert [row.split()[0] for row in rows[:3]] == ["seed1", "seed2", "seed10"]
    values = figures(runs / "runs")
    accuracies = [network["metrics"]["accuracy"] for network in values["networks"]]
    column = names.split().index("accuracy")
    assert [float(row.split()[column]) for row in rows[:3]] == pytest.approx(accuracies, abs=1e-6)
    spread = values["over_runs"]["accuracy"]
    assert spread["mean"] == pytest.approx(np.mean(accuracies))
    assert spread["sd"] == pytest.approx(np.std(accuracies, ddof=1))
    assert f"{spread['mean']:.6f}" in line(output, "mean")
    assert "by Student's t over 3 runs" in output
    ensemble = values["ensemble"]
    assert ensemble["metrics"]["log_loss"] < np.mean(
        [m["metrics"]["log_loss"] for m in values["networks"]]
    )
    gain = ensemble["minus_mean_of_networks"]["accuracy"]
    assert gain == pytest.approx(ensemble["metrics"]["accuracy"] - np.mean(accuracies))
    assert f"{gain:+.6f}" in output
    assert ensemble["temperature"]["fitted_on"] == "cross-fitted"
    assert f"  page         {runs / 'runs/evaluation_validation.html'}" in output
    assert "no_spread" not in values
    intervals = output.split("95% intervals of each, by 100 resamples of the images\n")[1]
    lines = intervals.splitlines()[:5]
    assert lines[0].split() == ["accuracy", "top5", "macro_f1", "log_loss", "brier"]
    for text, found in zip(lines[1:], [*values["networks"], ensemble], strict=True):
        ends = [found["intervals"][name] for name in lines[0].split()]
        assert text.split()[1:] == [
            part for e in ends for part in (f"{e['low']:.4f}", "to", f"{e['high']:.4f}")
        ]


def test_only_seeds_of_one_experiment_have_an_interval_over_runs(accepted, runs: Path):
    twin = Path(shutil.copytree(runs / "runs/seed1", runs / "runs/twin"))
    soup = Path(shutil.copytree(runs / "runs/seed2", runs / "runs/soup"))
    record = {**read_record(soup), "averaged_from": ["a", "b"]}
    (soup / "run.json").write_text(json.dumps(record))
    for folder, others, why in (
        (runs, "wide", "wide and runs/seed1 differ in model.options.hidden, and not in seeds"),
        (runs, "other_split", "other_split and runs/seed1 differ in data.split_seed, and not in"),
        (runs / "runs", "runs/twin", f"{twin.name} and seed1 have the same seed, 1"),
        (runs / "runs", "runs/soup", f"{soup.name} is a mean of other runs' weights, and no"),
    ):
        output = accepted(f"--workdir={runs}/runs/seed1,{runs}/{others}", "--bootstrap=0")
        assert f"  no mean or interval over runs: {why}" in output
        assert "Student" not in output
        assert not {"mean", "sd"} & {text.split()[0] for text in output.splitlines()}
        values = figures(folder)
        assert values["no_spread"].startswith(why)
        assert "over_runs" not in values
        page = (folder / "evaluation_validation.html").read_text()
        assert "No mean or interval over runs: " in page
        assert "Student" not in page
    # What belongs to the machine makes no other experiment.
    accepted(f"--workdir={runs}/streamed,{runs}/runs/seed2", "--bootstrap=0")
    assert figures(runs)["over_runs"]["accuracy"]["num_runs"] == 2


def test_an_ensemble_is_the_mean_of_probabilities(accepted, runs: Path, monkeypatch):
    seen: list[np.ndarray] = []
    call = SplitPredictor.__call__

    def watched(self, variables):
        found = call(self, variables)
        seen.append(np.concatenate([found.logits, found.labels[:, None]], axis=1))
        return found

    monkeypatch.setattr(SplitPredictor, "__call__", watched)
    accepted(f"--workdir={runs}/runs/seed1,{runs}/wide", "--ensemble", "--bootstrap=0")
    each = [np.exp(found[:, :-1]) for found in seen]
    mean = np.mean([e / e.sum(1, keepdims=True) for e in each], axis=0)
    labels = seen[0][:, -1].astype(int)
    own = mean[np.arange(len(mean)), labels]
    metrics = figures(runs)["ensemble"]["metrics"]
    assert metrics["log_loss"] == pytest.approx(-np.log(own).mean(), rel=1e-5)
    assert metrics["accuracy"] == np.mean(mean.argmax(1) == labels)


def test_runs_that_differ_in_weights_alone_share_data_and_programs(
    accepted, runs: Path, monkeypatch
):
    made: list[str] = []

    class Counted(SplitPredictor):
        def __init__(self, *arguments, **options):
            made.append("program")
            super().__init__(*arguments, **options)

    opened = split_runner.open_dataset
    monkeypatch.setattr(split_runner, "SplitPredictor", Counted)
    monkeypatch.setattr(
        split_runner, "open_dataset", lambda *a, **o: made.append("data") or opened(*a, **o)
    )
    accepted(f"--workdir={runs}/runs/seed*", "--bootstrap=0")
    assert made == ["data", "program"]
    made.clear()
    accepted(f"--workdir={runs}/runs/seed1,{runs}/wide", "--bootstrap=0", "--split=train")
    assert made == ["data", *["program"] * 4]  # two networks, on train and on validation


def test_every_run_counts_its_opening_of_test(accepted, runs: Path):
    accepted(f"--workdir={runs}/runs/seed2", "--split=test")
    output = accepted(f"--workdir={runs}/runs/*", "--split=test", "--ensemble")
    assert "the test split of these runs has now been opened 1, 2, 1 times" in output
    for name, times in (("seed1", 1), ("seed2", 2), ("seed10", 1)):
        openings = read_record(runs / "runs" / name)["test_openings"]
        assert len(openings) == times
        assert f"opened {times} time" in (runs / "runs" / name / "report.html").read_text()
    ensemble = figures(runs / "runs", "test")["ensemble"]
    assert ensemble["num_examples"] == NUM_TEST
    assert ensemble["temperature"]["fitted_on"] == "validation"


def test_runs_that_hold_out_others_make_an_ensemble_for_test_alone(accepted, refused, runs: Path):
    both = f"--workdir={runs}/runs/seed1,{runs}/other_split"
    sentence = refused(both, "--ensemble")
    assert "hold out other validation examples (config.data.split_seed" in sentence
    accepted(both)  # each for itself
    accepted(both, "--ensemble", "--split=test")
    values = figures(runs, "test")
    assert all("temperature" in network for network in values["networks"])
    assert "temperature" not in values["ensemble"]


def test_checkpoints_of_one_run_are_snapshots(accepted, refused, runs: Path):
    run = runs / "runs/seed1"
    steps = sorted(
        int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdigit()
    )
    assert len(steps) > 1
    output = accepted(f"--workdir={run}", "--checkpoint=all", "--ensemble", "--split=test")
    assert f"{len(steps)} checkpoints" in output.splitlines()[0]
    values = figures(run, "test")
    assert [network["checkpoint"] for network in values["networks"]] == steps
    assert "over_runs" not in values  # they are no independent trainings
    assert "Student" not in output
    assert "no mean or interval over checkpoints: they are checkpoints of one training" in output
    (opening,) = read_record(run)["test_openings"]
    assert opening["step"] == ", ".join(map(str, steps))
    assert opening[f"accuracy at {steps[0]}"] == values["networks"][0]["metrics"]["accuracy"]
    listed = f"--checkpoint={steps[-1]},latest,{steps[0]}"
    accepted(f"--workdir={run}", listed)
    assert [m["checkpoint"] for m in figures(run)["networks"]] == [steps[-1], steps[0]]
    sentence = refused(f"--workdir={run}", f"--checkpoint=latest,{steps[-1]}", "--ensemble")
    assert f"of {run} is step {steps[-1]} alone" in sentence


def test_another_task_has_its_means_only(accepted, refused, runs: Path, monkeypatch):
    # Here every task is another one than the one that has more.
    monkeypatch.setattr(Classification, "has_classes", False)
    output = accepted(f"--workdir={runs}/runs/seed1")
    said = [text.split()[0] for text in output.splitlines()[1:]]
    assert sorted(said) == ["accuracy", "errors", "figures", "loss", "page"]
    assert figures(runs / "runs/seed1")["networks"][0].keys() == {
        *("workdir", "checkpoint", "num_examples", "metrics"),
    }
    both = f"--workdir={runs}/runs/*"
    assert sorted(accepted(both).splitlines()[1].split()) == ["accuracy", "loss", "run", "step"]
    assert "--ensemble is for classification" in refused(both, "--ensemble")
    assert "--tta is for classification" in refused(both, "--tta=flip")


def test_what_is_not_finite_is_told_and_not_averaged(accepted, refused, runs: Path, monkeypatch):
    call = SplitPredictor.__call__

    def broken(self, variables):
        found = call(self, variables)
        found.logits[3] = np.nan
        return found

    monkeypatch.setattr(SplitPredictor, "__call__", broken)
    output = accepted(f"--workdir={runs}/runs/seed1")
    assert "  not finite   the outputs of 1 image; no more can be said" in output
    assert "macro_f1" not in output
    assert "are not finite; leave it out" in refused(f"--workdir={runs}/runs/*", "--ensemble")


MISTAKES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("--tta=flop",): ("named 'flop'", "did you mean flip"),
    ("--tta=shifts", "--tta_pixels=0"): ("--tta_pixels must be at least 1; found 0",),
    ("--tta=shifts", "--tta_pixels=99"): ("--tta_pixels is 99, but the images have", "use fewer"),
    ("--bootstrap=-1",): ("--bootstrap must be 0 or at least 100; found -1",),
    ("--bootstrap=99",): ("--bootstrap must be 0 or at least 100; found 99",),
    ("--ensemble",): ("--ensemble needs at least two networks", "--checkpoint=all"),
    ("--checkpoint=best,",): ("--checkpoint must be best, latest, a step", "'best,'"),
    ("--checkpoint=all,best",): ("--checkpoint must be", "'all,best'"),
    ("--checkpoint=best,7",): ("--checkpoint must be best, latest or one of the steps", "'7'"),
    ("{w}/runs/seed2",): ("flags only", "did you mean --workdir=", "between commas"),
}


@pytest.mark.parametrize(("flags", "texts"), MISTAKES.items())
def test_mistakes_are_told_in_one_sentence(refused, world: Path, flags, texts):
    before = sorted((world / "runs/seed1").rglob("*"))
    given = [flag.format(w=world) for flag in flags]
    sentence = refused(f"--workdir={world}/runs/seed1", *given)
    for text in texts:
        assert text in sentence
    assert sorted((world / "runs/seed1").rglob("*")) == before


def test_runs_that_do_not_belong_together(refused, world: Path):
    sentence = refused(f"--workdir={world}/runs/seed1,{world}/animals")
    assert "animals (cat, dog) and of " in sentence
    assert "runs/seed1 (0, 1, 2, ... (10 in all)) differ; networks" in sentence
    sentence = refused(f"--workdir={world}/runs/*", "--checkpoint=best,latest")
    assert "names several checkpoints and --workdir 3 runs" in sentence


def test_the_test_split_stays_closed_until_all_mistakes_are_told(refused, runs: Path):
    first, other = runs / "runs/seed1", runs / "runs/seed2"
    pair = f"--workdir={first},{other}"
    test = "--split=test"
    assert "animals (cat, dog) and of " in refused(f"--workdir={first},{runs}/animals", test)
    assert "tiny.py is a file" in refused(pair, test, f"--out={runs}/tiny.py/out")
    (other / "checkpoints").rename(other / "elsewhere")
    assert "checkpoints are gone" in refused(pair, test)
    (other / "elsewhere").rename(other / "checkpoints")
    record = (other / "run.json").read_text()
    (other / "run.json").write_text(json.dumps({**json.loads(record), "fingerprint": "other"}))
    assert "The data of digits changed" in refused(pair, test)
    (other / "run.json").write_text("{")
    assert "run.json is damaged, so the opening" in refused(pair, test)
    assert "test_openings" not in read_record(first)
    assert "test_openings" not in json.loads(record)


@pytest.mark.parametrize(
    ("field", "value", "found", "allowed"),
    [
        ("task", "segmentation", "segmentation", "classification"),
        ("fingerprint", "f1", "digits", "digits"),
        ("class_names", ("cat",), "cat", "0, 1"),
    ],
)
def test_what_networks_must_share(field, value, found, allowed):
    first = Comparable(Path("a"), ("0", "1"), "digits", "f0", "classification", ("train", b""))
    other = dataclasses.replace(first, workdir=Path("b"))
    check_alike(first, other, averaged=True)
    with refusals.refused(ConfigError, where="--workdir", found=found, allowed=allowed):
        check_alike(first, dataclasses.replace(other, **{field: value}), averaged=True)
    apart = dataclasses.replace(other, examples=("train", b"1"))
    with pytest.raises(ConfigError, match="b and a hold out other validation examples"):
        check_alike(first, apart, averaged=True)


def test_runs_far_apart_say_where_their_results_are_to_go(accepted, refused, runs: Path):
    far = runs / "far/away/from/it"
    shutil.copytree(runs / "runs/seed2", far)
    pair = f"--workdir={runs}/runs/seed1,{far}"
    sentence = refused(pair)
    assert f"no folder of their own in common, only {runs}; say by --out where" in sentence
    accepted(pair, f"--out={runs}/out", "--bootstrap=0")
    assert len(figures(runs / "out")["networks"]) == 2
    with refusals.refused(ConfigError, where="--out"):
        folder_of_results([Path("/run1"), Path("/run2")])
    with refusals.refused(ConfigError, where="--out"):
        folder_of_results([Path("/tmp/a"), Path("/var/tmp/b")])


def test_a_folder_of_runs_says_how_to_name_them(refused, world: Path):
    sentence = refused(f"--workdir={world}/runs")
    assert (
        f"runs is no run, but holds 3 runs; give one of them, as --workdir={world}/runs/seed1"
        in (sentence)
    )
    assert f"--workdir='{world}/runs/*'." in sentence


def test_a_pattern_without_a_run_names_the_nearest(refused, world: Path):
    sentence = refused(f"--workdir={world}/runs/sed*")
    assert f"No run matches --workdir={world}/runs/sed*; did you mean " in sentence
    assert f"{world}/runs/seed1" in sentence
    sentence = refused(f"--workdir={world}/rums/deep/seed*")
    assert f"{world}/runs/seed1" in sentence


def test_a_folder_that_cannot_be_written_is_told_before_anything_else(world: Path, capfd):
    for place, why in (
        (world / "tiny.py/out", f"({world / 'tiny.py'} is a file)"),
        (world / ("n" * 300), "(File name too long)"),
    ):
        assert main(["evaluate", f"--workdir={world}/runs/seed1", f"--out={place}"]) == 2
        output, errors = capfd.readouterr()
        assert output == ""
        assert f"cannot be written to {place} {why}; give another folder as --out." in errors


def test_what_cannot_be_written_after_all_loses_no_figure(world: Path, tmp_path: Path, capfd):
    place = tmp_path
    (place / "evaluation_validation.json").mkdir()
    assert main(["evaluate", f"--workdir={world}/runs/seed1", f"--out={place}"]) == 2
    output, errors = capfd.readouterr()
    assert "accuracy" in output
    assert f"cannot be written to {place}" in errors
    assert "as --out." in errors


def test_names_of_runs(tmp_path: Path, monkeypatch):
    for name in ("a,b", "seed[1]", "x/seed10", "x/seed9", "y"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert find_workdirs("a,b") == [Path("a,b")]
    assert find_workdirs("seed[1]") == [Path("seed[1]")]
    assert find_workdirs("x/*") == [Path("x/seed9"), Path("x/seed10")]
    assert find_workdirs("y,x/*,./y") == [Path("y"), Path("x/seed9"), Path("x/seed10")]
    assert find_workdirs("nowhere") == [Path("nowhere")]
    assert common_folder([Path("x/seed9"), Path("x/seed10")]) == tmp_path / "x"
    assert common_folder([Path("x/seed9"), Path("y")]) == tmp_path
    assert common_folder([Path("y")]) == Path("y")
    assert folder_of_results([Path("x/seed9"), Path("y")]) == tmp_path
    assert folder_of_results([Path("y")]) == Path("y")
    with pytest.raises(ConfigError, match="nothing between two commas"):
        find_workdirs("y,,x")
    assert find_checkpoints("best, 7,best") == ["best", "7"]
