"""`cnn-lab summary` prints what the analysis counts, and what follows from it."""

import re

import pytest

from cnn_lab.cli.main import main


@pytest.fixture
def said(capsys):
    """Runs a command and returns its status and all it said."""

    def run(*arguments: str) -> tuple[int, str]:
        status = main([*arguments])
        return status, "".join(capsys.readouterr())

    return run


def test_every_layer_and_the_totals_of_lenet(said):
    status, text = said("summary", "--model=lenet5", "--batch=100")
    assert status == 0
    rows = [re.split(r" {2,}", line) for line in text.splitlines()]
    assert ["backbone/c3", "Conv", "10x10x16", "2,416", "240,000", "14", "2", "6,400"] in rows
    assert ["parameters", "61,706 = 247 kB"] in [row[:2] for row in rows]
    totals = dict(line.split(maxsplit=1) for line in text.splitlines() if line[:1] in tuple("itae"))
    assert totals["inference"].startswith("416,520 MACs = 833.040 kFLOPs an image")
    assert totals["training"].startswith("2.499 MFLOPs an image (3 times as many")
    assert "32.4 kB an image, 3.24 MB in a batch of 100" in totals["activations"]
    # 3 passes x 416,520 MACs x 4.6 pJ x a million images, in joules, over 3.6e6
    assert totals["energy"].startswith("1.6e-06 kWh = 4.79e-07 in money for training")


def test_heads_that_only_train_count_in_training_alone(said):
    options = ("--input=64x64x3", "--num_classes=10")
    _, with_heads = said("summary", "--model=googlenet", *options)
    _, without = said("summary", "--model=googlenet", "--option=auxiliary=false", *options)
    inference = re.compile(r"^inference .*", re.MULTILINE)
    training = re.compile(r"^training +([\d.]+) \wFLOPs .*", re.MULTILINE)
    assert inference.findall(with_heads) == inference.findall(without)
    more, fewer = (training.findall(text)[0] for text in (with_heads, without))
    assert float(more) > float(fewer)
    assert "3 times those with the layers that only train" in with_heads


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ((), "--model is missing"),
        (("--model=resnet51",), "There is no model named 'resnet51'; did you mean"),
        (
            ("--model=lenet5", "--batch=0"),
            "--batch must be a whole number of at least 1; found '0'.",
        ),
        (("--model=lenet5", "--input=32x32"), "--input"),
        (("--model=resnet50", "--option=stemm=small"), "stem"),
        (("--model=inception_v3", "--input=32x32x3"), "at least 75x75 pixels; found 32x32"),
        (
            ("--model=lenet5", "--picojoules_per_mac=0"),
            "must be a finite number above 0; found '0'.",
        ),
        (("--model=lenet5", "extra"), "summary takes flags only; found 'extra'."),
    ],
)
def test_what_cannot_be_counted_is_refused(said, flags, text):
    status, told = said("summary", *flags)
    assert status == 2
    assert text in told
    assert len(told.splitlines()) == 1


def test_maps_and_stages_are_listed(capsys):
    assert main(["summary", "--model=vgg11", "--input=32x32x3"]) == 0
    printed = capsys.readouterr().out
    assert "\n  conv3_2          8x8x256\n" in printed
    assert printed.endswith("names them: stage1, stage2, stage3, stage4, stage5, head\n")
