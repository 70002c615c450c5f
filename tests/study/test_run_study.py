"""A study from its file to its page: trained once, measured once, resumed, judged."""

import dataclasses
import json
import math
import re
import shutil

import numpy as np
import pytest
from refusals import refused

from cnn_lab.analysis.verdict import Record, values_of
from cnn_lab.cli import runtime
from cnn_lab.cli.main import main
from cnn_lab.config import (
    Bounds,
    Comparison,
    Computation,
    DataConfig,
    EvaluateConfig,
    ExperimentConfig,
    ModelConfig,
    OptimConfig,
    Panel,
    Study,
    TrainConfig,
    Variant,
)
from cnn_lab.core.errors import ConfigError, WorkdirError
from cnn_lab.data.datasets.catalog import open_dataset
from cnn_lab.data.subsets import choose_examples
from cnn_lab.report.study import write_study
from cnn_lab.runs import diverging
from cnn_lab.study import computations, measures
from cnn_lab.study import run as study_run
from cnn_lab.study.computations import COMPUTATIONS
from cnn_lab.study.measures import MEASURES, OVER_SEEDS, Measure, OverSeeds, Values
from cnn_lab.study.run import make_trials, run_study
from cnn_lab.workdir.run_dir import read_record

ALL = tuple(MEASURES)
CLAIM = "A rate of 0.5 fits better <b>than</b> 0.001."


def config(rate: float, **changes) -> ExperimentConfig:
    fields = {
        "data": DataConfig(num_train=200, num_validation=100),
        "model": ModelConfig(name="mlp", options={"hidden": (16,)}),
        "optim": OptimConfig(name="sgd", learning_rate=rate),
        "train": TrainConfig(num_epochs=3, batch_size=50),
        "evaluate": EvaluateConfig(every_epochs=3),
    }
    return ExperimentConfig(**{**fields, **changes})


def study(**changes) -> Study:
    fields = {
        "title": "Rates <of learning>",
        "question": "Is a rate of 0.5 better than one of 0.001 & why?",
        "variants": (
            Variant(series="sgd", x=0.001, config=config(0.001)),
            Variant(series="sgd", x=0.5, config=config(0.5)),
        ),
        "measures": ALL,
        "over_seeds": ("accuracy of the ensemble",),
        "num_seeds": 2,
        "panels": (
            Panel(measure="unseen accuracy", x="rate", log_x=True),
            Panel(measure="training loss", kind="points"),
        ),
        "claims": (
            Comparison(
                text=CLAIM,
                measure="training loss",
                larger=("sgd", 0.001),
                smaller=("sgd", 0.5),
            ),
        ),
    }
    return Study(**{**fields, **changes})


def with_data(data: DataConfig) -> dict:
    rates = (0.001, 0.5)
    return {
        "variants": tuple(Variant(series="sgd", x=r, config=config(r, data=data)) for r in rates)
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
    folder, said = tmp_path_factory.mktemp("study"), []
    open_dataset("digits")  # which may say that it is prepared first
    found = run_study(study(), folder, 2, said.append)
    assert found is not None
    return folder, found, said


def test_every_variant_is_measured_from_every_seed(finished):
    folder, found, said = finished
    for measure in ("unseen accuracy", "training accuracy", "training loss", "dead units"):
        for x in (0.001, 0.5):
            assert values_of(found.records, measure, ("sgd", x)).keys() == {0, 1}
    assert [re.sub(r"0\.\d{4}, \d+ (s|min) left$", "", line) for line in said] == [
        f"{n}/4  sgd {x}, seed {s}: accuracy on shifted images "
        for n, (x, s) in enumerate([(0.001, 0), (0.001, 1), (0.5, 0), (0.5, 1)], start=1)
    ]
    stored = json.loads((folder / "results.json").read_text())
    assert len(stored["records"]) == len(found.records)
    assert len((folder / "results.csv").read_text().splitlines()) == len(found.records) + 1


def test_the_claim_is_judged_by_the_numbers(finished):
    _, found, _ = finished
    assert [claim.verdict for claim in found.verdicts] == ["holds"]
    losses = {x: values_of(found.records, "training loss", ("sgd", x)) for x in (0.001, 0.5)}
    mean = np.mean([losses[0.001][seed] - losses[0.5][seed] for seed in (0, 1)])
    assert f": {mean:.4g} (" in found.verdicts[0].evidence


def test_measures_agree_with_each_other(finished):
    _, found, _ = finished
    unseen = values_of(found.records, "unseen accuracy", ("sgd", 0.5))
    # No shift at all, and an ensemble of one.
    places = [("accuracy on shifted images", 0), ("accuracy of the ensemble", 1)]
    both = [[r for r in found.records if r.measure == m and r.x == x] for m, x in places]
    for seed, value in unseen.items():
        assert value in [row.value for row in both[0] if row.seed == seed]
        assert value in [row.value for row in both[1] if row.seed == seed]
    shifted = [r.value for r in found.records if r.measure == places[0][0] and r.x == 4]
    assert max(shifted) < min(unseen.values())


def test_nothing_is_trained_or_measured_twice(finished, monkeypatch):
    folder, found, _ = finished
    monkeypatch.setitem(MEASURES, "dead units", Measure(lambda _: {None: 1 / 0}))
    again = run_study(study(), folder, 2, lambda _: None)
    assert again is not None
    assert again.records == found.records
    runs = sorted((folder / "runs").glob("*/seed*"))
    assert len(runs) == 4
    assert [len(read_record(run)["sessions"]) for run in runs] == [1] * 4


def test_an_interruption_ends_it_and_the_next_call_goes_on(tmp_path, monkeypatch):
    train, calls = diverging.run_training, []

    def cut(config, workdir, log):
        calls.append(workdir)
        result = train(config, workdir, log)
        return result if len(calls) != 2 else dataclasses.replace(result, status="interrupted")

    monkeypatch.setattr(diverging, "run_training", cut)
    quick = study(measures=(), seeds_per_split=2, panels=(), claims=())
    assert run_study(quick, tmp_path, 2, lambda _: None) is None
    assert not (tmp_path / "results.json").exists()
    found = run_study(quick, tmp_path, 2, lambda _: None)
    assert found is not None
    # A group of two seeds gives one value of either size.
    assert [(row.series, row.x, row.seed) for row in found.records] == [
        (series, size, 0) for series in ("sgd 0.001", "sgd 0.5") for size in (1, 2)
    ]
    never = OverSeeds(lambda _: {1: 1 / 0}, lambda n: (1, n))
    monkeypatch.setitem(OVER_SEEDS, "accuracy of the ensemble", never)
    again = run_study(quick, tmp_path, 2, lambda _: None)
    assert again is not None
    assert again.records == found.records


def test_a_training_that_diverges_is_a_result(tmp_path):
    variants = (
        Variant(series="sgd", x=0.5, config=config(0.5)),
        Variant(series="sgd", x=1e30, config=config(1e30)),
    )
    claim = Comparison(
        text="Faster is better.",
        measure="training loss",
        larger=("sgd", 0.5),
        smaller=("sgd", 1e30),
    )
    wild = study(variants=variants, claims=(claim,), measures=("unseen accuracy", "training loss"))
    said = []
    open_dataset("digits")
    found = run_study(wild, tmp_path, 2, said.append)
    assert found is not None
    assert ["diverged" in line for line in said] == [False, False, True, True]
    assert np.isnan(list(values_of(found.records, "training loss", ("sgd", 1e30)).values())).all()
    assert np.isfinite(list(values_of(found.records, "training loss", ("sgd", 0.5)).values())).all()
    ensembles = [r for r in found.records if r.measure == "accuracy of the ensemble"]
    assert [np.isnan(row.value) for row in ensembles] == [False, False, True, True]
    assert found.verdicts[0].verdict == "undecided"
    assert "not finite in 2 of 2" in found.verdicts[0].evidence
    why = next((tmp_path / "runs").glob("*1e*/seed0/diverged.txt")).read_text()
    assert "is not finite" in why
    page = write_study(tmp_path, wild, found.records, found.verdicts).page.read_text()
    assert '<td class="number">not finite</td>' in page
    again = run_study(wild, tmp_path, 2, said.append)
    assert again is not None
    assert [line.rpartition(":")[2] for line in said[6:]] == [" diverged", " diverged"]


def test_the_page_escapes_and_shows_verdicts_and_numbers(finished, tmp_path):
    _, found, _ = finished
    report = write_study(tmp_path, study(), found.records, found.verdicts)
    page = report.page.read_text()
    assert "Rates &lt;of learning&gt;" in page
    assert "&lt;b&gt;than&lt;/b&gt;" in page
    assert "<b>than" not in page
    assert '<td class="verdict holds">holds</td>' in page
    mean = np.mean(list(values_of(found.records, "training loss", ("sgd", 0.5)).values()))
    assert f'<td class="number">{mean:.5g}</td>' in page
    assert report.beside.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "where", "found"),
    [
        ({"measures": ("unseen acuracy",)}, "measures", "unseen acuracy"),
        ({"over_seeds": ("x",)}, "over_seeds", "x"),
        ({"computations": (Computation(name="xorr"),)}, "computations", "xorr"),
        (
            {"computations": (Computation(name="xor", options={"seeds": 1}),)},
            "computation xor",
            "seeds",
        ),
        (
            {"variants": (Variant(series="a", config=config(0.1)),) * 2},
            "variants",
            ("a", None),
        ),
        (
            {
                "variants": (
                    Variant(series="a b", config=config(0.1)),
                    Variant(series="A", x="b", config=config(0.2)),
                )
            },
            "variants",
            ("A", "b"),
        ),
        ({"seeds_per_split": 3}, "--seeds", 2),
        ({"seeds_per_split": 2}, "seeds_per_split", 2),
    ],
)
def test_mistakes_are_told_before_any_training(changes, where, found, tmp_path):
    with refused(ConfigError, where=where, found=found):
        make_trials(study(**changes), tmp_path, 2)
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_not_there_is_told_before_any_training(tmp_path):
    variants = (Variant(series="a", config=config(0.1, model=ModelConfig(name="mpl"))),)
    with refused(ConfigError, found="mpl"):
        make_trials(study(variants=variants, claims=(), panels=()), tmp_path, 2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "where", "found"),
    [
        ({"measures": ("unseen accuracy",)}, "claims", "training loss"),
        ({"panels": (Panel(measure="training los"),)}, "panels", "training los"),
        (
            {"panels": (Panel(measure="training loss", series=("sdg",)),)},
            "panels",
            "sdg",
        ),
        (
            {
                "claims": (
                    Bounds(text="Good.", measure="unseen accuracy", place=("adam", 0.5), low=0.5),
                )
            },
            "claims",
            "adam",
        ),
        (
            {
                "variants": (
                    Variant(series="sgd", x=0.001, config=config(0.001)),
                    Variant(series="sgd", x=0.5, config=config(0.5, seed=7)),
                )
            },
            "claims",
            CLAIM,
        ),
        (
            with_data(DataConfig(num_train=200, num_validation=0)),
            "config.data.num_validation",
            0,
        ),
        (with_data(DataConfig(num_validation=100)), "config.data.num_train", None),
        (
            with_data(DataConfig(num_train=5000, num_validation=100)),
            "config.data.num_train",
            5000,
        ),
    ],
)
def test_claims_and_panels_of_nothing_are_told_before_any_training(changes, where, found, tmp_path):
    with refused(ConfigError, where=where, found=found):
        run_study(study(**changes), tmp_path, 2, lambda _: None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("measure", "place", "found", "near"),
    [
        ("unseen accuracy", ("sgd", 0.05), "('sgd', 0.05)", "('sgd', 0.5)"),
        ("unseen accuracy", ("sgd 0.5", None), "sgd 0.5", "sgd"),  # no such series
        ("training loss by epoch", ("sgd 0.5", 4), "('sgd 0.5', 4)", "('sgd 0.5', "),
        ("accuracy on shifted images", ("sgd 0.5", 5), "('sgd 0.5', 5)", "('sgd 0.5', "),
        ("accuracy of the ensemble", ("sgd 0.5", 2), "('sgd 0.5', 2)", "('sgd 0.5', 1)"),
    ],
)
def test_a_claim_at_no_place_is_told_before_any_training(measure, place, found, near, tmp_path):
    claim = Bounds(text="Good.", measure=measure, place=place, low=0.5)
    with pytest.raises(ConfigError) as caught:
        make_trials(study(claims=(claim,)), tmp_path, 2)
    assert caught.value.found == found
    assert caught.value.nearest[0].startswith(near)


def test_an_edited_study_is_told_what_to_do(finished):
    folder, _, _ = finished
    changed = (
        Variant(series="sgd", x=0.001, config=config(0.002)),
        Variant(series="sgd", x=0.5, config=config(0.5)),
    )
    with pytest.raises(WorkdirError) as error:
        run_study(study(variants=changed), folder, 2, lambda _: None)
    assert (error.value.where, error.value.found) == ("--workdir", str(folder))
    text = str(error.value)
    assert "optim.learning_rate: 0.001 there, 0.002 now" in text
    assert f"another --workdir, or delete {folder / 'runs' / 'sgd_0.001'}." in text
    assert "--config" not in text


def test_data_that_changed_are_told(finished, tmp_path):
    folder, _, _ = finished
    copy = shutil.copytree(folder, tmp_path / "copy")
    file = copy / "runs" / "sgd_0.5" / "seed1" / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "fingerprint": "old"}))
    with refused(WorkdirError, where=str(file.parent), found="digits"):
        run_study(study(), copy, 2, lambda _: None)


def test_each_seed_has_its_images_and_all_variants_the_same_of_a_seed(tmp_path):
    trials = make_trials(study(), tmp_path, 2)
    dataset = open_dataset("digits")
    chosen = [[tuple(s.indices) for s in choose_examples(dataset, r.config.data)] for r in trials]
    assert chosen[0] == chosen[2]
    assert chosen[1] == chosen[3]
    for part in (0, 1):
        assert chosen[0][part] != chosen[1][part]
    grouped = study(seeds_per_split=2, claims=(), over_seeds=())
    seeds = [(r.config.seed, r.config.data.split_seed) for r in make_trials(grouped, tmp_path, 4)]
    assert seeds[:4] == [(0, 0), (1, 0), (2, 1), (3, 1)]


def test_equal_variants_share_their_trainings(tmp_path):
    twins = tuple(Variant(series=name, config=config(0.1)) for name in ("a", "b"))
    trials = make_trials(study(variants=twins, claims=(), panels=()), tmp_path, 2)
    assert [run.workdir.relative_to(tmp_path).as_posix() for run in trials] == (
        ["runs/a/seed0", "runs/a/seed1"] * 2
    )


def test_cached_values_of_a_run_have_no_place(finished, monkeypatch):
    folder, found, _ = finished
    monkeypatch.setitem(MEASURES, "dead units", Measure(lambda _: {None: 1 / 0}))
    named = tuple(
        Variant(series="SGD", x=f"{x:g}", config=config(x)) for x in (0.001, 0.5)
    )  # of the same folders
    again = run_study(study(variants=named, claims=(), panels=()), folder, 2, lambda _: None)
    assert again is not None
    assert [r.value for r in again.records] == [r.value for r in found.records]
    places = {(row.series, row.x) for row in again.records if row.measure == "unseen accuracy"}
    assert places == {("SGD", "0.001"), ("SGD", "0.5")}


def test_a_computation_runs_once(tmp_path, monkeypatch):
    calls, said = [], []

    def counted(size: int = 3) -> list[Record]:
        calls.append(size)
        return [Record("a", None, 0, "m", math.nan), Record("b", 2.5, 0, "m", size, exact=True)]

    monkeypatch.setitem(COMPUTATIONS, "xor", counted)
    first = Computation(name="xor")
    records = [study_run.cached_computation(tmp_path, first, said.append) for _ in range(2)]
    assert (len(calls), said) == (1, ["computing xor"])
    assert records[0][1] == records[1][1] == Record("b", 2.5, 0, "m", 3, exact=True)
    assert math.isnan(records[1][0].value)
    study_run.cached_computation(
        tmp_path, Computation(name="xor", options={"size": 4}), said.append
    )
    study_run.cached_computation(tmp_path, first, said.append)
    assert calls == [3, 4]
    for file in (tmp_path / "computed").iterdir():
        file.write_text("{")
    study_run.cached_computation(tmp_path, first, said.append)
    assert calls == [3, 4, 3]
    monkeypatch.setattr(computations, "VERSION", -1)
    study_run.cached_computation(tmp_path, first, said.append)
    assert calls == [3, 4, 3, 3]


def test_values_of_another_meaning_are_taken_again(tmp_path, monkeypatch):
    found: list[Values] = [{None: 1.0}, {1: math.nan, 2: 0.5}]
    take = iter(found).__next__
    assert (
        study_run.cached_values(tmp_path, "m", take)
        == study_run.cached_values(tmp_path, "m", take)
        == {None: 1.0}
    )
    monkeypatch.setattr(measures, "VERSION", -1)
    again = [dict(study_run.cached_values(tmp_path, "m", take)) for _ in range(2)]
    assert again[0].keys() == again[1].keys() == {1, 2}
    assert math.isnan(again[1][1])


def test_how_to_go_on_is_quoted(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(runtime, "start", lambda _: None)
    monkeypatch.setattr(study_run, "run_study", lambda *_: None)
    assert main(["study", "depth", f"--workdir={tmp_path}/a b", "--seeds=4"]) == 0
    text = capsys.readouterr().out
    assert text.endswith(f"\n  cnn-lab study depth --seeds=4 '--workdir={tmp_path}/a b'\n")


def test_a_folder_belongs_to_one_study(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runtime, "start", lambda _: None)
    assert main(["study", "xor", f"--workdir={tmp_path / 'new'}", "--seeds=3"]) == 2
    assert "xor trains nothing, and its seeds are fixed" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    (tmp_path / "study.json").write_text('{"study": "polynomial"}')
    assert main(["study", "xor", f"--workdir={tmp_path}"]) == 2
    assert f"{tmp_path} is the folder of the study polynomial" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["study.json"]


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runtime, "start", lambda _: None)
    assert main(["study"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert "polynomial       Overfitting: polynomials through ten points" in listed
    assert main(["study", "polynomial", f"--workdir={tmp_path}"]) == 0
    text = capsys.readouterr().out
    assert "+ holds      Degree 9 goes through all ten points (to 1e-6)." in text
    assert "fails" not in text
    assert (tmp_path / "study.html").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["polinomial"], "There is no study named 'polinomial'; did you mean polynomial?"),
        (["xor", "polynomial"], "study takes one name; found 'xor polynomial'."),
        (["xor", "--seeds=0"], "--seeds must be a whole number of at least 1; found '0'."),
        (["experiments/digits/lenet5.py"], "it defines no get_study(); a study must."),
    ],
)
def test_wrong_commands(arguments, text, capsys):
    assert main(["study", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert text in error
