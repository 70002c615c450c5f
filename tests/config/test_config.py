"""The experiment's config: ranges, files, flags, JSON and what may differ on resuming."""

import dataclasses
import importlib
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnn_lab.cli.commands.train import default_workdir
from cnn_lab.cli.flags import split_overrides
from cnn_lab.config import (
    EarlyStoppingConfig,
    ExperimentConfig,
    MeshConfig,
    ModelConfig,
)
from cnn_lab.config.load import (
    FORMAT_VERSION,
    config_to_json,
    load_config,
    split_reference,
)
from cnn_lab.config.node import Node, from_dict, override, to_dict
from cnn_lab.config.rules import differences, validate
from cnn_lab.core.errors import CnnLabError, ConfigError, DataError

ROOT = Path(__file__).parents[2]


def nodes(node_type: type[Node]) -> list[type[Node]]:
    """A node's type and those of all nodes below it."""
    below = [f.default_factory for f in dataclasses.fields(node_type)]
    return [
        node_type,
        *(n for b in below if isinstance(b, type) and issubclass(b, Node) for n in nodes(b)),
    ]


def write_experiment(folder: Path, body: str, name: str = "experiment.py") -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"from cnn_lab.config import *\nfrom cnn_lab.core.errors import DataError\n\n{body}"
    )
    return str(path)


GOOD = "def get_config():\n    return ExperimentConfig(seed=7)\n"

# A field out of its range, and the words for what is allowed.
NATURAL, COUNT = "a whole number of at least 0", "a whole number of at least 1"
WRITTEN = "or none, written like 0.5,0.5 (one alone: 0.5,)"
OUT_OF_RANGE = {
    "seed=-1": "a whole number of at least 0 and below 4294967296",
    "seed=4294967296": "a whole number of at least 0 and below 4294967296",
    "data.split_seed=-1": "a whole number of at least 0 and below 4294967296",
    "data.pad=-1": NATURAL,
    "data.image_size=0,5": f"a tuple of 2, each {COUNT}, or none, written like 32,32",
    "data.channels=2": "one of 1, 3, or none",
    "data.mean=1.5": f"a tuple, each entry a finite number of at least 0 and at most 1, {WRITTEN}",
    "data.std=0": f"a tuple, each entry a finite number above 0, {WRITTEN}",
    "data.num_validation=-1": f"{NATURAL} or none",
    "data.validation_fraction=1": "a finite number of at least 0 and below 1",
    "data.validation_fraction=-0.1": "a finite number of at least 0 and below 1",
    "data.loader=fast": "one of auto, in_memory, sharded, streaming",
    "data.in_memory_limit_mib=-1": NATURAL,
    "data.num_workers=-1": NATURAL,
    "optim.learning_rate=0": "a finite number above 0",
    "optim.learning_rate=1e999": "a finite number above 0",
    "optim.l2=-1e-4": "a finite number of at least 0",
    "optim.schedule.warmup_steps=-1": NATURAL,
    "train.num_epochs=0": COUNT,
    "train.batch_size=0": COUNT,
    "train.log_every_steps=0": f"{COUNT} or none",
    "train.max_steps_per_dispatch=0": COUNT,
    "evaluate.every_epochs=0": COUNT,
    "evaluate.batch_size=0": COUNT,
    "early_stopping.every_epochs=0": COUNT,
    "early_stopping.patience=0": COUNT,
    "early_stopping.min_delta=-1": "a finite number of at least 0",
    "checkpoint.every_steps=0": f"{COUNT} or none",
    "checkpoint.keep_latest=0": COUNT,
    "mesh.num_devices=0": f"{COUNT} or none",
}


@pytest.mark.parametrize("setting", OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused(setting):
    path, _, text = setting.partition("=")
    error = refused(lambda: override(ExperimentConfig(), path, text))
    assert (error.where, error.found) == (f"config.{path}", text)
    assert error.allowed == OUT_OF_RANGE[setting]


def refused(call: Callable[[], Any]) -> CnnLabError:
    """The error of a call that must raise one."""
    with pytest.raises(CnnLabError) as caught:
        call()
    return caught.value


# Settings that do not go together: the field that the error names, its value, the other field.
CLASHES = {
    ("data.mean=0.5",): ("data", None, "data.std"),
    ("data.std=0.5",): ("data", None, "data.mean"),
    ("train.batch_size=9", "train.num_micro_batches=2"): (
        *("train.num_micro_batches", 2, "train.batch_size"),
    ),
    ("optim.l2_vectors=true",): ("optim.l2_vectors", True, "optim.l2"),
    ("data.sampling=balanced", "task.class_weights=balanced"): (
        *("data.sampling", "balanced", "task.class_weights"),
    ),
    ("optim.schedule.warmup_steps=1", "optim.schedule.warmup_epochs=1"): (
        *("optim.schedule", None, "optim.schedule"),
    ),
    ("train.num_epochs=2", "optim.schedule.warmup_epochs=2"): (
        *("optim.schedule.warmup_epochs", 2.0, "optim.schedule"),
    ),
    ("optim.schedule.name=plateau", "data.validation_fraction=0"): (
        *("optim.schedule.name", "plateau", "data.validation_fraction"),
    ),
    ("average.kind=swa", "average.decay=0.5"): ("average.decay", 0.5, "average.kind"),
    ("average.every_epochs=2",): ("average.every_epochs", 2, "average.kind"),
    ("average.kind=swa", "average.start_epoch=11"): ("average.start_epoch", 11, "average"),
    ("average.kind=swa", "transfer.strategy=logistic"): ("average", None, "transfer.strategy"),
    ("train.num_epochs=2", "early_stopping.every_epochs=3"): (
        *("early_stopping.every_epochs", 3, "early_stopping"),
    ),
    ("early_stopping.patience=1", "data.validation_fraction=0"): (
        *("early_stopping", None, "data.validation_fraction"),
    ),
    ("early_stopping.patience=1", "data.num_validation=0"): (
        *("early_stopping", None, "data.num_validation"),
    ),
    ("early_stopping.every_epochs=3", "evaluate.every_epochs=2"): (
        *("early_stopping.every_epochs", 3, "evaluate.every_epochs"),
    ),
    ("early_stopping.patience=1", "transfer.strategy=logistic"): (
        *("early_stopping", None, "transfer.strategy"),
    ),
}


def with_settings(*settings: str) -> ExperimentConfig:
    config = ExperimentConfig()
    for setting in settings:
        path, _, text = setting.partition("=")
        override(config, path, text)
    return config


@pytest.mark.parametrize("settings", CLASHES, ids=" ".join)
def test_settings_that_clash_are_refused(settings):
    where, found, other = CLASHES[settings]
    error = refused(lambda: validate(with_settings(*settings)))
    assert (error.where, error.found) == (f"config.{where}", found)
    assert f"config.{other}" in str(error)


def test_the_sentence_of_settings_that_clash():
    settings = ("early_stopping.every_epochs=3", "evaluate.every_epochs=2")
    assert str(refused(lambda: validate(with_settings(*settings)))) == (
        "config.early_stopping.every_epochs (3) must be a multiple of "
        "config.evaluate.every_epochs (2), since a check needs an evaluation."
    )


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("data.mean=0.5", "data.std=0.2"),
        ("train.num_epochs=2", "evaluate.every_epochs=3"),  # the last epoch is evaluated anyway
        ("train.num_epochs=2", "early_stopping.every_epochs=2"),
        ("data.validation_fraction=0",),
        ("early_stopping.patience=1", "data.validation_fraction=0", "data.num_validation=5"),
        ("early_stopping.every_epochs=4", "evaluate.every_epochs=2"),
    ],
    ids=" ".join,
)
def test_settings_that_go_together_pass(settings):
    validate(with_settings(*settings))


@pytest.mark.parametrize("node_type", nodes(ExperimentConfig), ids=lambda n: n.__name__)
def test_every_node_says_what_its_fields_mean_and_holds_its_own_defaults(node_type):
    assert node_type.__doc__
    assert not node_type.__doc__.startswith(f"{node_type.__name__}(")  # what dataclass would write
    default = node_type()
    for field in dataclasses.fields(node_type):
        setattr(default, field.name, getattr(default, field.name))  # a default fits its own type
    assert default == node_type()


EXPERIMENTS = [
    p for p in sorted((ROOT / "experiments").rglob("*.py")) if p.parent.name != "studies"
]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_every_experiment_survives_json(path):
    config = load_config(str(path))
    validate(config)
    assert from_dict(ExperimentConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_json_brings_back_tuples_floats_and_absent_groups():
    config = with_settings(
        "data.image_size=3,4", "data.mean=0,1", "data.std=1,1", "early_stopping.min_delta=1"
    )
    assert from_dict(ExperimentConfig, json.loads(json.dumps(to_dict(config)))) == config
    assert to_dict(config)["data"]["mean"] == (0.0, 1.0)
    assert from_dict(ExperimentConfig, to_dict(ExperimentConfig())).early_stopping is None


def test_differences_ignore_where_and_how_fast_a_run_happens():
    old = ExperimentConfig()
    runtime = with_settings(
        "mesh.num_devices=2",
        "log.tensorboard=false",
        "checkpoint.every_steps=5",
        "data.loader=streaming",
        "data.num_workers=3",
        "data.data_dir=/x",
        "train.max_steps_per_dispatch=1",
        "evaluate.batch_size=7",
    )
    assert to_dict(runtime) != to_dict(old)
    assert differences(to_dict(old), to_dict(runtime)) == {}


def test_differences_name_what_changed_and_see_no_json():
    old = with_settings("data.image_size=3,4", "model.options.hidden=(1,2)")
    assert differences(json.loads(json.dumps(to_dict(old))), to_dict(old)) == {}
    new = with_settings(
        "data.image_size=3,5",
        "model.options.hidden=(1,3)",
        "model.options.rate=1",
        "optim.schedule.name=cosine",
        "early_stopping.patience=2",
    )
    assert differences(to_dict(old), to_dict(new)) == {
        "data.image_size": ((3, 4), (3, 5)),
        "early_stopping": (None, to_dict(EarlyStoppingConfig(patience=2))),
        "model.options.hidden": ((1, 2), (1, 3)),
        "model.options.rate": (None, 1),
        "optim.schedule.name": ("constant", "cosine"),
    }


def test_overrides_are_told_from_other_arguments():
    arguments = [
        "--config.seed=3",
        "--workdir=x",
        "--config=f.py",
        "-config.train.batch_size",
        "8",
        "--config.log.tensorboard",
        "--config.optim.learning_rate",
        "-1",
        "word",
        "--config.model.options.a=b=c",
    ]
    assert split_overrides(arguments) == (
        [
            ("seed", "3"),
            ("train.batch_size", "8"),
            ("log.tensorboard", "true"),
            ("optim.learning_rate", "-1"),
            ("model.options.a", "b=c"),
        ],
        ["--workdir=x", "--config=f.py", "word"],
    )


def test_what_follows_two_dashes_is_left_alone():
    assert split_overrides(["--config.seed=1", "--", "--config.seed=2"]) == (
        [("seed", "1")],
        ["--", "--config.seed=2"],
    )


@pytest.mark.parametrize("rest", [[], ["--workdir=x"]])
def test_an_override_without_a_value_is_refused(rest):
    error = refused(lambda: split_overrides(["--config.seed", *rest]))
    assert error.where == "--config.seed"
    assert str(error) == "--config.seed needs a value: --config.seed=VALUE."


def test_an_override_without_a_value_may_be_a_typo():
    error = refused(lambda: split_overrides(["--config.mesh.fspd"]))
    assert (error.where, error.found, error.nearest) == ("config.mesh", "fspd", ("fsdp",))


def test_the_last_override_wins(tmp_path):
    reference = write_experiment(tmp_path, GOOD)
    overrides = [("seed", "1"), ("early_stopping.patience", "2"), ("seed", "2")]
    assert load_config(reference, []).seed == 7
    config = load_config(reference, overrides)
    assert config.seed == 2
    assert config.early_stopping == EarlyStoppingConfig(patience=2)
    assert load_config(reference, [*overrides, ("early_stopping", "none")]).early_stopping is None
    assert load_config(reference, [("model.options.new", "3")]).model == ModelConfig(
        options={"new": 3}
    )


def test_a_misspelt_override_names_the_nearest_field(tmp_path):
    reference = write_experiment(tmp_path, GOOD)
    error = refused(lambda: load_config(reference, [("optim.learning_rte", "1")]))
    assert (error.where, error.found) == ("config.optim", "learning_rte")
    assert error.nearest == ("learning_rate",)


def test_an_argument_reaches_get_config(tmp_path):
    body = "def get_config(name='x'):\n    return ExperimentConfig(model=ModelConfig(name=name))\n"
    reference = write_experiment(tmp_path, body)
    assert load_config(reference, []).model.name == "x"
    assert load_config(f"{reference}:mlp", []).model.name == "mlp"
    assert load_config(f"{reference}:", []).model.name == ""
    assert split_reference(f"{reference}:mlp") == (Path(reference), "mlp")


def test_a_colon_may_be_part_of_a_file_name(tmp_path):
    assert load_config(write_experiment(tmp_path, GOOD, "a:b.py"), []).seed == 7


def test_the_config_json_of_a_run_is_a_config(tmp_path):
    config = with_settings("mesh.num_devices=3", "data.image_size=3,4")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_dict(config)))
    assert load_config(str(path), []) == config
    assert load_config(str(path), [("mesh.num_devices", "none")]).mesh == MeshConfig()


@pytest.mark.parametrize("version", [0, 1, True, "2", None])
def test_a_config_of_another_format_version_is_refused(version, tmp_path):
    path = tmp_path / "config.json"
    values = config_to_json(ExperimentConfig())
    assert values["format_version"] == FORMAT_VERSION == 2
    path.write_text(json.dumps(values))
    assert load_config(str(path)) == ExperimentConfig()
    path.write_text(json.dumps({**values, "format_version": version, "unknown": 1}))
    error = refused(lambda: load_config(str(path)))
    assert (error.found, error.allowed) == (version, "2")
    assert str(error) == (
        f"{path}: config has format version {json.dumps(version)}, but this version of cnn-lab "
        "reads and writes format 2; use the version that wrote it, or train anew."
    )


# The body of an experiment file (from line 4 on), and the beginning of the error.
BROKEN = {
    "x = 1\n": "FILE: it defines no get_config(); an experiment must.",
    "def get_study():\n    return 1\n": "FILE: it is a study, not an experiment; run it by cnn-lab",
    "def get_config():\n    return {'seed': 1}\n": (
        "get_config() in FILE must return an ExperimentConfig; it returned {'seed': 1}."
    ),
    "def get_config():\n    pass\n": (
        "get_config() in FILE must return an ExperimentConfig; it returned None."
    ),
    "def get_config():\n\n    return 1 / 0\n": "FILE, line 6: ZeroDivisionError: division by zero",
    "import no_such_module\n": (
        "FILE, line 4: ModuleNotFoundError: No module named 'no_such_module'"
    ),
    "def get_config(:\n    pass\n": "FILE, line 4: SyntaxError: ",
    "raise SystemExit\n": "FILE, line 4: SystemExit: no message.",
    "def get_config():\n    return ExperimentConfig(sed=1)\n": (
        "FILE, line 5: ExperimentConfig has no field 'sed'; did you mean seed?"
    ),
    "def get_config():\n    config = ExperimentConfig()\n    config.train.batch_sze = 1\n": (
        "FILE, line 6: TrainConfig has no field 'batch_sze'; did you mean batch_size"
    ),
    "def get_config():\n    config = ExperimentConfig()\n    config.data.pad = '2'\n": (
        "FILE, line 6: DataConfig.pad must be a whole number of at least 0; found '2'."
    ),
    "def get_config():\n    import json\n    return json.loads('[\\n\\n\\n\\n\\n\\n')\n": (
        "FILE, line 6: JSONDecodeError: Expecting value"
    ),
}


@pytest.mark.parametrize("body", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_experiment_file_is_named_with_its_line(tmp_path, body):
    reference = write_experiment(tmp_path, body)
    error = refused(lambda: load_config(reference))
    assert isinstance(error, ConfigError)
    assert str(error).startswith(BROKEN[body].replace("FILE", reference))
    assert error.where


def test_the_fields_of_an_error_survive_the_file(tmp_path):
    body = "def get_config():\n    return ExperimentConfig(sed=1)\n"
    error = refused(lambda: load_config(write_experiment(tmp_path, body)))
    assert (error.where, error.found, error.nearest[0]) == ("ExperimentConfig", "sed", "seed")
    body = "def get_config():\n    return 1 / 0\n"
    reference = write_experiment(tmp_path, body)
    assert refused(lambda: load_config(reference)).where == f"{reference}, line 5"


@pytest.mark.parametrize(
    ("parameters", "argument", "text"),
    [
        ("", ":adam", "FILE: get_config() takes no argument; leave :adam out of --config."),
        ("name", "", "FILE: get_config() needs an argument; give it as --config=FILE:ARGUMENT."),
    ],
)
def test_an_argument_too_many_or_too_few_is_said_so(tmp_path, parameters, argument, text):
    body = f"def get_config({parameters}):\n    return ExperimentConfig()\n"
    reference = write_experiment(tmp_path, body)
    error = refused(lambda: load_config(reference + argument))
    assert (str(error), error.where) == (text.replace("FILE", reference), reference)


def test_the_kind_of_an_error_survives_the_file(tmp_path):
    reference = write_experiment(tmp_path, "def get_config():\n    raise DataError('no images')\n")
    error = refused(lambda: load_config(reference))
    assert type(error) is DataError
    assert str(error) == f"{reference}, line 5: no images"


def test_a_missing_file_is_answered_with_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = refused(lambda: load_config("no.py"))
    assert (error.where, error.found, error.allowed) == ("--config", "no.py", None)
    assert str(error) == "There is no config file 'no.py'; give the path of an experiment file."
    write_experiment(tmp_path / "experiments" / "mnist", GOOD, "lenet5.py")
    for argument in ("", ":adam"):
        error = refused(lambda: load_config(f"experiments/mnist/lenet.py{argument}"))  # noqa: B023
        assert (error.where, error.found) == ("--config", "experiments/mnist/lenet.py")
        assert error.nearest == ("experiments/mnist/lenet5.py",)


def test_an_experiment_that_ships_is_found_by_its_name_from_anywhere(tmp_path, monkeypatch):
    shipped = ROOT / "experiments/mnist/lenet5_distorted.py"
    expected = [load_config(f"{shipped}{argument}") for argument in ("", ":all")]
    monkeypatch.chdir(tmp_path)
    names = ("mnist/lenet5_distorted", "mnist/lenet5_distorted:all")
    assert [load_config(name) for name in names] == expected
    places = [default_workdir(*split_reference(name)) for name in names]
    assert places == [
        Path("runs/mnist/lenet5_distorted"),
        Path("runs/mnist/lenet5_distorted-all"),
    ]
    # One's own comes first.
    write_experiment(tmp_path / "experiments/mnist", GOOD, "lenet5_distorted.py")
    assert load_config(names[0]).seed == 7
    # A name is no reason to overlook the folder of a run.
    write_experiment(tmp_path / "mnist/lenet5", "{}", "config.json")
    assert refused(lambda: load_config("mnist/lenet5")).allowed == "mnist/lenet5/config.json"


def test_an_unknown_name_or_path_of_an_experiment_offers_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for reference in ("mnist/lenet_1998", "experiments/mnist/lenet5_1998.py"):
        error = refused(lambda: load_config(reference))  # noqa: B023
        assert (error.where, error.found) == ("--config", reference)
        assert error.nearest[0] == "mnist/lenet5_1998"


@pytest.mark.parametrize("reference", [None, ""])
def test_no_file_at_all_is_answered_with_an_example(reference):
    error = refused(lambda: load_config(reference))
    assert error.where == "--config"
    assert "--config=experiments/digits/" in str(error)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.json", "{", "a.json is not readable JSON ("),
        ("a.json", "[1]", "a.json: config must be a table of fields; found [1]."),
        ("a.json", '{"sed": 1}', "a.json: config has no field 'sed'; did you mean seed?"),
        ("a.txt", "seed = 1", "a.txt is no Python file; an experiment ends in .py or .json."),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, monkeypatch, name, content, text):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(content)
    error = refused(lambda: load_config(name))
    assert str(error).startswith(text)
    assert error.where in (name, "config")


def test_the_folder_of_a_run_points_to_its_config(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    error = refused(lambda: load_config(str(tmp_path)))
    assert (error.where, error.found) == ("--config", str(tmp_path))
    assert error.allowed == str(tmp_path / "config.json")


def test_what_ruff_is_told_of_the_config_exists():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    for name in settings["flake8-bugbear"]["extend-immutable-calls"]:
        module, _, function = name.rpartition(".")
        assert callable(getattr(importlib.import_module(module), function, None)), name


def test_places_of_runs():
    assert default_workdir(Path("experiments/mnist/lenet5.py")) == Path("runs/mnist/lenet5")
    assert default_workdir(Path("experiments/mnist/lenet5.py"), "all") == Path(
        "runs/mnist/lenet5-all"
    )
    assert default_workdir(Path("runs/a/config.json")) == Path("runs/a")
