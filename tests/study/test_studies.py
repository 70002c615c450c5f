"""Every study in experiments/studies: its configs can work, and its claims and pictures fit it."""

from pathlib import Path

import pytest

from cnn_lab.cli.study_file import load_study, study_files
from cnn_lab.config import Comparison
from cnn_lab.study.conduct import check_study

FILES = study_files()


def test_there_are_the_studies_of_the_course():
    assert len(FILES) >= 11


@pytest.mark.parametrize("name", FILES)
def test_a_study_can_be_conducted(name: str, tmp_path: Path):
    _, study = load_study(name)
    assert len(check_study(study, tmp_path, study.num_seeds)) == (
        len(study.variants) * study.num_seeds
    )
    assert study.claims
    assert study.panels
    assert FILES[name].read_text().splitlines()[2] == f"cnn-lab study {name}"


@pytest.mark.parametrize("name", FILES)
def test_claims_are_about_what_is_there(name: str):
    _, study = load_study(name)
    series = {variant.series for variant in study.variants}
    for claim in study.claims:
        places = (claim.larger, claim.smaller) if isinstance(claim, Comparison) else (claim.place,)
        for place in places:
            assert study.computations or place[0] in series
