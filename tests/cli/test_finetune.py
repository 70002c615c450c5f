"""`finetune` from a run to a folder of images, and `lineage`."""

import numpy as np
import pytest
from PIL import Image

from cnn_lab.cli import runtime
from cnn_lab.cli.main import main
from cnn_lab.config import (
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    TransferConfig,
)
from cnn_lab.data.datasets.catalog import open_dataset
from cnn_lab.experiment.initialization import digest_of
from cnn_lab.experiment.restore import restore_run
from cnn_lab.runs.finetune import finetune_config
from cnn_lab.runs.train import run_training
from cnn_lab.workdir.run_dir import read_config, read_record


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "mlp"
    config = ExperimentConfig(
        data=DataConfig(num_train=64, num_validation=64),
        model=ModelConfig(name="mlp", options={"hidden": (16,)}),
        optim=OptimConfig(name="sgd", learning_rate=0.05),
        train=TrainConfig(num_epochs=1, batch_size=32),
    )
    run_training(config, folder, lambda _: None)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Colour images of two kinds, larger than the source's."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    generator = np.random.default_rng(0)
    for name, level in (("dark", 40), ("light", 200)):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            pixels = generator.integers(level - 40, level + 40, (12, 14, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(runtime, "start", lambda _: None)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        return main(list(arguments)), *capsys.readouterr()

    return call


def test_the_data_alone_are_enough(run, source, photos, tmp_path):
    status, text, errors = run("finetune", f"--from={source}", f"--data=folder:{photos}")
    assert (status, errors) == (0, "")
    (workdir,) = (tmp_path / "runs").iterdir()
    assert workdir.name == "mlp-photos-auto"
    assert "Recipe: adamw at a rate of 0.01, cosine, 100 epochs, batches of 9, augmentation" in text
    same = ExperimentConfig(
        data=DataConfig(name=f"folder:{photos}"), transfer=TransferConfig(source=str(source))
    )
    assert finetune_config(same) == read_config(workdir)
    config, trained = read_config(workdir), restore_run(workdir, "best")
    assert config.model == read_config(source).model
    assert (config.data.image_size, config.data.channels) == ((8, 8), 1)
    assert config.data.mean == restore_run(source, "best").network.preprocess.mean
    assert trained.network.class_names == ("dark", "light")
    assert "Strategy head: 36 training images are very few" in text
    assert config.train.batch_size == 9  # four steps an epoch
    assert "report" in text
    arguments = ("--strategy=all", "--dry_run", "--config.optim.options.weight_decay=0.05")
    asked = run("finetune", f"--from={source}", f"--data=folder:{photos}", *arguments)
    assert asked[0] == 0  # an option of the usual recipe's optimizer
    assert "adamw (weight_decay=0.05), rate 0.001" in asked[1]
    again = run("finetune", f"--from={source}", f"--data=folder:{photos}")
    assert again[0] == 0
    assert "Nothing to do" in again[1]


def test_a_dry_run_prepares_nothing(run, source, photos, tmp_path):
    data = (f"--data=folder:{photos}", f"--config.data.data_dir={tmp_path / 'data'}")
    status, text, errors = run("finetune", f"--from={source}", *data, "--dry_run")
    assert (status, text) == (2, "")
    assert f"folder:{photos} is not prepared yet; run `cnn-lab data prepare" in errors
    assert list(tmp_path.iterdir()) == []


def test_the_recipe_is_that_of_the_training(run, source, photos, tmp_path):
    fields = ("train.num_epochs=2", "train.batch_size=6", "optim.learning_rate=0.02")
    arguments = (f"--from={source}", f"--data=folder:{photos}", f"--workdir={tmp_path / 'run'}")
    text = run("finetune", *arguments, *(f"--config.{field}" for field in fields))[1]
    assert "Recipe: adamw at a rate of 0.02, cosine, 2 epochs, batches of 6, augm" in text
    config = read_config(tmp_path / "run")
    assert (config.train.num_epochs, config.train.batch_size) == (2, 6)
    assert config.optim.learning_rate == 0.02


def test_logistic_regression_and_mistakes_have_no_recipe(run, source, photos, tmp_path):
    arguments = (f"--from={source}", f"--data=folder:{photos}", f"--workdir={tmp_path / 'run'}")
    assert "Recipe" not in run("finetune", *arguments, "--strategy=last_stages:2")[1]
    status, text, _ = run("finetune", *arguments, "--strategy=logistic")
    assert status == 0
    assert "Recipe" not in text
    assert "strengths of the penalty" in text


def test_lineage_tells_where_the_weights_are_from(run, source, photos, tmp_path):
    options = ("--config.train.num_epochs=1", "--strategy=all")
    first, second = tmp_path / "first", tmp_path / "second"
    data = f"--data=folder:{photos}"
    assert run("finetune", f"--from={source}", data, f"--workdir={first}", *options)[0] == 0
    dropped = (*options, "--config.transfer.dropout=0.25", "--config.transfer.l2_sp=0.01")
    assert run("finetune", f"--from={first}", data, f"--workdir={second}", *dropped)[0] == 0
    digest = read_record(second)["transfer"]["digest"]
    status, text, _ = run("lineage", f"--workdir={second}")
    assert status == 0
    lines = text.splitlines()
    assert lines[0] == f"{second}: mlp on folder:{photos}, finished after 4 steps"
    assert lines[1].startswith(f"  from {first}, step ")
    assert lines[2] == f"    weights  {digest}"
    assert lines[3] == "    trained  all: dense1 x1, head x1"
    settings = ["config.transfer.l2_sp=0.01", "config.transfer.dropout=0.25"]
    assert lines[4:6] == [f"    with     {setting}" for setting in settings]
    before = next(line for line in lines if line.startswith(f"    from {source}, step "))
    assert lines.index(before) > 5
    assert lines[-1] == (
        "      note     output layer: 0 of 2 classes kept by name, the others begin anew"
    )
    status, text, _ = run("lineage", f"--workdir={source}")
    assert text.splitlines()[1] == "  begun with weights of its own"


def test_the_recipe_may_be_a_file_and_the_model_is_the_sources(run, source, photos, tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from cnn_lab.config import *\n"
        "def get_config():\n"
        "    return ExperimentConfig(optim=OptimConfig(name='lion', learning_rate=1e-4),\n"
        "                            train=TrainConfig(num_epochs=1, batch_size=12))\n"
    )
    arguments = (f"--from={source}", f"--data=folder:{photos}", f"--config={recipe}")
    assert run("finetune", *arguments, f"--workdir={tmp_path / 'run'}")[0] == 0
    config = read_config(tmp_path / "run")
    assert (config.optim.name, config.train.batch_size, config.model.name) == ("lion", 12, "mlp")


def test_the_strategy_of_a_recipe_is_kept_unless_the_flag_gives_another(
    run, source, photos, tmp_path
):
    open_dataset(f"folder:{photos}")  # which a dry run does not prepare
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from cnn_lab.config import *\n"
        "def get_config():\n"
        "    return ExperimentConfig(transfer=TransferConfig(strategy='all'),\n"
        "                            data=DataConfig(pad=0),\n"
        "                            model=ModelConfig(name='resnet20'),\n"
        "                            train=TrainConfig(num_epochs=1, batch_size=12))\n"
    )
    arguments = (f"--from={source}", f"--data=folder:{photos}", f"--config={recipe}", "--dry_run")
    status, text, _ = run("finetune", *arguments)
    assert status == 0
    assert "Strategy all." in text
    assert "The model is the source's, mlp, and not that of the recipe." in text
    assert "Strategy head." in run("finetune", *arguments, "--strategy=head")[1]
    assert not (tmp_path / "runs").exists()


def test_a_soup_and_what_follows_keep_the_lineage(run, source, photos, tmp_path):
    data, options = f"--data=folder:{photos}", ("--config.train.num_epochs=1", "--strategy=all")
    members = [tmp_path / str(seed) for seed in (0, 1)]
    for seed, folder in enumerate(members):
        arguments = (f"--workdir={folder}", f"--config.seed={seed}", *options)
        assert run("finetune", f"--from={source}", data, *arguments)[0] == 0
    soup, child = tmp_path / "soup", tmp_path / "child"
    assert run("soup", f"--workdir={members[0]},{members[1]}", f"--out={soup}")[0] == 0
    assert run("finetune", f"--from={soup}", data, f"--workdir={child}", *options)[0] == 0
    for folder, indent in ((soup, "  "), (child, "    ")):
        lines = run("lineage", f"--workdir={folder}")[1].splitlines()
        for member in members:
            step = read_record(member)["progress"]["selection"]["best_step"]
            place = lines.index(f"{indent}one of its mean: {member}, checkpoint {step}")
            digest = digest_of(restore_run(member, "best").variables)
            assert lines[place + 1] == f"{indent}  weights  {digest}"
            assert lines[place + 2].startswith(f"{indent}  from {source}, step ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--from=SOURCE/config.json", "--data=digits"],
            "config.json is a file; give the folder of a run, which cnn-lab import-weights makes",
        ),
        (
            ["--from=SOURCE", "--data=digits", "--config.transfer.source=other"],
            "and --config.transfer.source both name a source; leave out the second one.",
        ),
        (
            ["--from=SOURCE", "--data=digits", "--config.transfer.checkpoint=77"],
            "config.transfer.checkpoint must be best, latest or one of the steps",
        ),
        (["--data=digits"], "--from is missing: give the folder of a run"),
        (["--from=SOURCE"], "--data is missing: give a data set, such as --data=folder:photos."),
        (["--from=nowhere", "--data=digits"], "nowhere"),
        (["--from=SOURCE", "--data=digits", "--strategy=heads"], "did you mean head"),
        (
            ["--from=SOURCE", "--data=digits", "--strategy=last_stages:2"],
            "the backbone has 1 stage (dense1); give 1 to 1",
        ),
        (
            ["--from=SOURCE", "--data=digits", "--config.data.image_size=9,9"],
            "params/backbone/dense1/kernel is (64, 16) in the source, (81, 16) here",
        ),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(run, source, tmp_path, arguments, message):
    given = [argument.replace("SOURCE", str(source)) for argument in arguments]
    status, _, errors = run("finetune", *given, "--workdir=new")
    assert status == 2
    assert message in errors
    assert not (tmp_path / "new").exists()
