"""`data show`: a sheet of originals and altered images."""

import io

import numpy as np
import pytest
from PIL import Image

from cnn_lab.cli import runtime
from cnn_lab.cli.main import main
from cnn_lab.core.targets import TargetSpec
from cnn_lab.report.sheet import CAPTION, CELL, GAP, LABEL, contact_sheet, target_captions


@pytest.fixture
def show(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runtime, "start_logging", lambda: None)

    def run(*arguments: str) -> tuple[int, str, np.ndarray | None]:
        out = tmp_path / "sheet.png"
        status = main(["data", "show", "digits", f"--out={out}", *arguments])
        output, errors = capsys.readouterr()
        picture = np.asarray(Image.open(out)) if status == 0 else None
        return status, output + errors, picture

    return run


FACTOR = -(-CELL // 8)  # of the 8x8 digits


def cell(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    """The image in a row and column of the sheet, at its own size, frame left out."""
    top = row * (8 * FACTOR + CAPTION + GAP) + GAP
    left = LABEL + column * (8 * FACTOR + GAP)
    return picture[top : top + 8 * FACTOR, left : left + 8 * FACTOR][
        FACTOR // 2 :: FACTOR, FACTOR // 2 :: FACTOR
    ]


def test_originals_stand_beside_what_becomes_of_them(show):
    status, text, picture = show("--augment=heavy")
    assert status == 0
    assert "10 training images of digits, each with 8 versions" in text
    assert "augmentation  strokes, heavy" in text
    for row in range(10):
        original = cell(picture, row, 0)
        assert original.max() > 200
        others = [cell(picture, row, column) for column in range(1, 9)]
        assert all((other != original).any() for other in others)
    # Ten digits, one of each.
    assert len({cell(picture, row, 0).tobytes() for row in range(10)}) == 10


def test_without_augmentation_all_are_alike(show):
    _, _, picture = show("--augment=none", "--num_images=3")
    for row in range(3):
        for column in range(1, 9):
            np.testing.assert_array_equal(cell(picture, row, column), cell(picture, row, 0))


def test_single_values_of_an_experiment_and_of_the_command_line_count(show):
    flip = ["--augment=none", "--config.data.augment.options.flip=1.0", "--num_images=2"]
    _, _, picture = show(
        "--config=experiments/digits/lenet5.py", "--config.data.image_size=none", *flip
    )
    for row in range(2):
        np.testing.assert_array_equal(cell(picture, row, 3), cell(picture, row, 0)[:, ::-1])


def test_another_seed_shows_others(show):
    (_, _, one), (_, _, same), (_, _, other) = show(), show(), show("--seed=1")
    np.testing.assert_array_equal(one, same)
    assert (cell(one, 0, 0) != cell(other, 0, 0)).any()


def test_captions_and_names_lie_outside_the_images():
    images = np.full((1, 2, 100, 50, 3), 7, np.uint8)
    picture = np.asarray(Image.open(io.BytesIO(contact_sheet(images, ["name"], [["a", "b"]]))))
    assert (picture[GAP : GAP + 100, LABEL + 54 : LABEL + 104] == 7).all()


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        (
            "--augment=much",
            "--augment must be one of none, light, heavy; found 'much' (recipes: "
            "--config.data.augment.recipe).",
        ),
        ("--num_images=0", "--num_images must be a whole number of at least 1; found '0'."),
        (
            "--config.data.augment.recipe=stroke",
            "There is no augmentation named 'stroke'; did you mean strokes?",
        ),
        ("--config.data.augment.options.flip=2", "config.data.augment.options.flip must be"),
        (
            "--config.data.augment.options.flipp=1",
            "Augmentation has no option 'flipp'; did you mean flip",
        ),
        (
            "--config.data.augment.options.shift=9",
            "config.data.augment.options.shift must be below 8",
        ),
    ],
)
def test_mistakes_are_told(show, flag, text):
    status, found, _ = show(flag)
    assert status == 2
    assert text in found
    assert found.count("\n") == 1


def test_the_data_are_where_the_config_says(show, tmp_path):
    place = tmp_path / "elsewhere"
    assert show(f"--config.data.data_dir={place}", "--num_images=1")[0] == 0
    assert (place / "digits").is_dir()
    here = f"--data_dir={place}/"  # the same
    assert show(here, f"--config.data.data_dir={place}", "--num_images=1")[0] == 0
    status, text, _ = show(f"--data_dir={tmp_path}", f"--config.data.data_dir={place}")
    assert status == 2
    assert text == (
        f"error: --data_dir={tmp_path} and --config.data.data_dir={place} are two places; leave "
        "one out.\n"
    )


@pytest.mark.parametrize(
    "flag", ["--config.data.name=mnist", "--config=experiments/mnist/lenet5.py"]
)
def test_the_data_are_those_of_the_config(show, flag):
    status, text, _ = show(flag)
    assert status == 2
    assert text == (
        "error: data show digits was asked for, but the config's data are mnist; give one of them "
        "in both places.\n"
    )
    assert show("--config.data.name=digits", "--num_images=1")[0] == 0


@pytest.mark.parametrize("action", ["check", "prepare"])
@pytest.mark.parametrize(
    "flag",
    ["--out=x.png", "--augment=heavy", "--num_images=10", "--config=nonexistent.py", "--seed=0"],
)
def test_the_other_actions_take_no_flags_of_show(capsys, action, flag):
    assert main(["data", action, "digits", flag]) == 2
    name = flag.partition("=")[0]
    assert capsys.readouterr().err == (
        f"error: data {action} takes no {name}, which is for data show: leave it out.\n"
    )


def test_the_other_actions_take_no_overrides(capsys):
    assert main(["data", "check", "digits", "--config.seed=1"]) == 2
    assert capsys.readouterr().err == "error: data check takes no --config.* overrides.\n"


def test_mixed_images_have_partners_of_all_classes_and_both_are_named(show):
    _, text, picture = show("--augment=none", "--config.data.augment.options.mixup=0.4")
    assert "augmentation  strokes, none, mixup 0.4" in text
    assert picture is not None
    labels = np.arange(10)

    def partners(number: int) -> list[int]:
        """Who is whose neighbour in a version of the sheet."""
        order = np.random.default_rng((0, number)).permutation(10)
        pairs = order.reshape(5, 2)[:, ::-1].reshape(10)
        return pairs[np.argsort(order)].tolist()

    found = np.array([partners(number) for number in range(8)])
    assert all(len(set(found[:, label])) > 3 for label in labels)
    assert (found != labels).all()
    classes = TargetSpec("class", ("a", "b", "c"))
    shares = np.array([[0.0, 0.25, 0.75], [1.0, 0.0, 0.0]])
    assert target_captions(shares, classes) == ["c 75%, b 25%", "a 100%"]
    assert target_captions(np.array([2, 0]), classes) == ["c", "a"]
    numbers = TargetSpec("numbers", ("x", "y"))
    assert target_captions(np.array([[0.5, -2.25]]), numbers) == ["0.5, -2.25"]


def test_images_that_are_not_mixed_stay_in_their_rows(show):
    # The same shift of the same digits, whatever order they went through the augmentation in.
    _, _, picture = show("--augment=none", "--config.data.augment.options.flip=1.0")
    for row in range(10):
        for column in range(1, 9):
            np.testing.assert_array_equal(
                cell(picture, row, column), cell(picture, row, 0)[:, ::-1]
            )
