"""A study from its file to its page: trained once, measured once, resumed, judged."""

import json
import re

import numpy as np
import pytest

from cnn_lab.cli import runtime
from cnn_lab.cli.main import main
from cnn_lab.config import (
    Bounds,
    Comparison,
    Computation,
    DataConfig,
    EvaluateConfig,
    ExperimentConfig,
    ModelSpec,
    OptimConfig,
    Panel,
    Study,
    TrainConfig,
    Variant,
)
from cnn_lab.core.errors import CnnLabError, ConfigError
from cnn_lab.report.study import write_study
from cnn_lab.study import conduct as conducting
from cnn_lab.study.conduct import check_study, conduct
from cnn_lab.study.measures import MEASURES
from cnn_lab.study.rows import values_of
from cnn_lab.train.workdir import read_record

ALL = tuple(MEASURES)


def config(rate: float, **changes) -> ExperimentConfig:
    fields = {
        "data": DataConfig(num_train=200, num_validation=100),
        "model": ModelSpec(name="mlp", options={"hidden": (16,)}),
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
            Panel(measure="training loss", kind="bars"),
        ),
        "claims": (
            Comparison(
                text="A rate of 0.5 fits better <b>than</b> 0.001.",
                measure="training loss",
                larger=("sgd", 0.001),
                smaller=("sgd", 0.5),
            ),
        ),
    }
    return Study(**{**fields, **changes})


@pytest.fixture(scope="module")
def conducted(tmp_path_factory, data_dir):
    folder, said = tmp_path_factory.mktemp("study"), []
    found = conduct(study(), folder, 2, said.append)
    assert found is not None
    return folder, found, said


def test_every_variant_is_measured_from_every_seed(conducted):
    folder, found, said = conducted
    for measure in ("unseen accuracy", "training accuracy", "training loss", "dead units"):
        for x in (0.001, 0.5):
            assert values_of(found.rows, measure, ("sgd", x)).keys() == {0, 1}
    assert [re.sub(r"0\.\d{4}, \d+ (s|min) left$", "", line) for line in said] == [
        f"{n}/4  sgd {x}, seed {s}: accuracy on shifted images "
        for n, (x, s) in enumerate([(0.001, 0), (0.001, 1), (0.5, 0), (0.5, 1)], start=1)
    ]
    stored = json.loads((folder / "results.json").read_text())
    assert len(stored["rows"]) == len(found.rows)
    assert len((folder / "results.csv").read_text().splitlines()) == len(found.rows) + 1


def test_the_claim_is_judged_by_the_numbers(conducted):
    _, found, _ = conducted
    assert [claim.verdict for claim in found.judged] == ["holds"]
    losses = {x: values_of(found.rows, "training loss", ("sgd", x)) for x in (0.001, 0.5)}
    mean = np.mean([losses[0.001][seed] - losses[0.5][seed] for seed in (0, 1)])
    assert f": {mean:.4g} (" in found.judged[0].evidence


def test_measures_agree_with_each_other(conducted):
    _, found, _ = conducted
    unseen = values_of(found.rows, "unseen accuracy", ("sgd", 0.5))
    # No shift at all, and an ensemble of one.
    places = [("accuracy on shifted images", 0), ("accuracy of the ensemble", 1)]
    both = [[r for r in found.rows if r.measure == m and r.x == x] for m, x in places]
    for seed, value in unseen.items():
        assert value in [row.value for row in both[0] if row.seed == seed]
        assert value in [row.value for row in both[1] if row.seed == seed]
    shifted = [r.value for r in found.rows if r.measure == places[0][0] and r.x == 4]
    assert max(shifted) < min(unseen.values())
    # Ensembles of all members are one and the same.
    largest = [r.value for r in found.rows if r.measure == places[1][0] and r.x == 2]
    assert len(largest) == 4
    assert len(set(largest)) <= 2


def test_nothing_is_trained_or_measured_twice(conducted, monkeypatch):
    folder, found, _ = conducted
    monkeypatch.setitem(MEASURES, "dead units", lambda _: 1 / 0)
    again = conduct(study(), folder, 2, lambda _: None)
    assert again is not None
    assert again.rows == found.rows
    runs = sorted((folder / "runs").glob("*/seed*"))
    assert len(runs) == 4
    assert [len(read_record(run)["sessions"]) for run in runs] == [1] * 4


def test_an_interruption_ends_it_and_the_next_call_goes_on(tmp_path, monkeypatch):
    train, calls = conducting.run_training, []

    def cut(config, workdir, say):
        calls.append(workdir)
        result = train(config, workdir, say)
        return result if len(calls) != 2 else type(result)("interrupted", result.progress, True)

    monkeypatch.setattr(conducting, "run_training", cut)
    quick = study(measures=("training loss",), over_seeds=(), panels=())
    assert conduct(quick, tmp_path, 2, lambda _: None) is None
    assert not (tmp_path / "results.json").exists()
    assert conduct(quick, tmp_path, 2, lambda _: None) is not None


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
    found = conduct(wild, tmp_path, 2, said.append)
    assert found is not None
    assert ["diverged" in line for line in said] == [False, False, True, True]
    assert np.isnan(list(values_of(found.rows, "training loss", ("sgd", 1e30)).values())).all()
    assert np.isfinite(list(values_of(found.rows, "training loss", ("sgd", 0.5)).values())).all()
    ensembles = [r for r in found.rows if r.measure == "accuracy of the ensemble"]
    assert len(ensembles) == 4  # of the two that did not
    assert found.judged[0].verdict == "undecided"
    assert "not finite in 2 of 2" in found.judged[0].evidence
    why = next((tmp_path / "runs").glob("*1e*/seed0/diverged.txt")).read_text()
    assert "is not finite" in why
    page = write_study(tmp_path, wild, found.rows, found.judged).page.read_text()
    assert '<td class="number">not finite</td>' in page
    again = conduct(wild, tmp_path, 2, said.append)
    assert again is not None
    assert [line.rpartition(":")[2] for line in said[6:]] == [" diverged", " diverged"]


def test_the_page_escapes_and_shows_verdicts_and_numbers(conducted, tmp_path):
    _, found, _ = conducted
    report = write_study(tmp_path, study(), found.rows, found.judged)
    page = report.page.read_text()
    assert "Rates &lt;of learning&gt;" in page
    assert "&lt;b&gt;than&lt;/b&gt;" in page
    assert "<b>than" not in page
    assert '<td class="verdict holds">holds</td>' in page
    mean = np.mean(list(values_of(found.rows, "training loss", ("sgd", 0.5)).values()))
    assert f'<td class="number">{mean:.5g}</td>' in page
    assert report.picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"measures": ("unseen acuracy",)}, "There is no measure named 'unseen acuracy'; did you"),
        ({"over_seeds": ("x",)}, "There is no measure over seeds named 'x'"),
        (
            {"computations": (Computation(name="xorr"),)},
            "no computation named 'xorr'; did you mean xor?",
        ),
        (
            {"computations": (Computation(name="xor", options={"seeds": 1}),)},
            "xor has no option 'seeds'",
        ),
        (
            {"variants": (Variant(series="a", config=config(0.1)),) * 2},
            "two variants at ('a', None)",
        ),
        (
            {"variants": (Variant(series="a", config=config(0.1, model=ModelSpec(name="mpl"))),)},
            "There is no model named 'mpl'; did you mean mlp",
        ),
    ],
)
def test_mistakes_are_told_before_any_training(changes, text, tmp_path):
    with pytest.raises(CnnLabError, match=re.escape(text)):
        check_study(study(**changes), tmp_path, 2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"measures": ("unseen accuracy",)}, "no measure in this study named 'training loss'"),
        (
            {"panels": (Panel(measure="training los"),)},
            "named 'training los'; did you mean training loss",
        ),
        (
            {"panels": (Panel(measure="training loss", series=("sdg",)),)},
            "no series in this study named 'sdg'; did you mean sgd?",
        ),
        (
            {
                "claims": (
                    Bounds(text="Good.", measure="unseen accuracy", place=("adam", 0.5), low=0.5),
                )
            },
            "no series in this study named 'adam'; known: sgd, sgd 0.001, sgd 0.5.",
        ),
    ],
)
def test_claims_and_panels_of_nothing_are_told_before_any_training(changes, text, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(text)):
        conduct(study(**changes), tmp_path, 2, lambda _: None)
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runtime, "start", lambda _: None)
    assert main(["study"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert "polynomial       Overfitting: polynomials through ten points" in listed
    assert main(["study", "polynomial", f"--workdir={tmp_path}"]) == 0
    text = capsys.readouterr().out
    assert "+ holds      Degree 9 goes through all ten points." in text
    assert "fails" not in text
    assert (tmp_path / "study.html").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["polinomial"], "There is no study named 'polinomial'; did you mean polynomial?"),
        (["xor", "polynomial"], "study takes one name; found 'xor polynomial'."),
        (["xor", "--seeds=0"], "--seeds must be at least 1; found 0."),
        (["experiments/digits/lenet5.py"], "it defines no get_study(); a study must."),
    ],
)
def test_wrong_commands(arguments, text, capsys):
    assert main(["study", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert text in error
