"""Every study in experiments/studies: its configs can work, and its claims and pictures fit it."""

from pathlib import Path

import pytest

from cnn_lab.analysis.verdict import values_of
from cnn_lab.config import Comparison
from cnn_lab.config.load import load_study, study_files
from cnn_lab.study.checks import check_claims, make_trials
from cnn_lab.study.computations import COMPUTATIONS

FILES = study_files()
QUICK = {
    "polynomial": {},
    "signal": {"num_seeds": 1, "num_examples": 8, "activations": ("relu",)},
    "xor": {"num_seeds": 1, "num_steps": 1},
}


def test_there_are_the_studies_of_the_course():
    assert len(FILES) >= 11


@pytest.mark.parametrize("name", FILES)
def test_a_study_can_be_conducted(name: str, tmp_path: Path):
    _, study = load_study(name)
    assert len(make_trials(study, tmp_path, study.num_seeds)) == (
        len(study.variants) * study.num_seeds
    )
    assert study.claims
    assert study.panels
    assert FILES[name].read_text().splitlines()[2] == f"cnn-lab study {name}"


@pytest.mark.parametrize("name", FILES)
def test_claims_are_about_what_is_there(name: str):
    _, study = load_study(name)
    computed = [
        row
        for computation in study.computations
        for row in COMPUTATIONS[computation.name](
            **{**computation.options, **QUICK[computation.name]}
        )
    ]
    check_claims(study, computed)
    for claim in study.claims:
        places = (claim.larger, claim.smaller) if isinstance(claim, Comparison) else (claim.place,)
        for place in places:
            if claim.measure in {row.measure for row in computed}:
                assert values_of(computed, claim.measure, place)
            else:
                assert claim.measure in {*study.measures, *study.over_seeds}
    if study.over_seeds:  # of as many values as a claim can be decided by
        assert study.num_seeds // study.seeds_per_split >= 4
