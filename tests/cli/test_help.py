"""What `--version`, `help config` and `list` tell about fields and options."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from cnn_lab.cli.commands.list import DETAILED, KINDS, named_functions
from cnn_lab.cli.main import COMMANDS, main
from cnn_lab.cli.reference import explained, flag_text
from cnn_lab.config import ExperimentConfig
from cnn_lab.config.load import load_config
from cnn_lab.config.node import Node, override
from cnn_lab.config.values import (
    annotations_of,
    check_value,
    declared_options,
    describe,
    group_in,
    parse_literal,
)
from cnn_lab.layers.factory import INITIALIZERS

NAMED = [(kind, name) for kind in DETAILED for name in named_functions(kind)]


@pytest.fixture
def log(capsys: pytest.CaptureFixture):
    def run(*arguments: str) -> str:
        assert main(arguments) == 0
        return capsys.readouterr().out

    return run


def leaves(node_type: type[Node], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted path, annotation and default of every field that is no group."""
    for name, annotation in annotations_of(node_type).items():
        group = group_in(annotation)
        if group is not None:
            yield from leaves(group, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", annotation, getattr(node_type(), name)


def test_version_needs_no_jax(log):
    versions = {name: metadata.version(name) for name in ("cnn-lab", "jax", "flax")}
    expected = ", ".join(f"{name} {version}" for name, version in versions.items())
    assert log("--version") == f"{expected}\n"
    code = "import sys; from cnn_lab.cli.main import main; main(['--version']); "
    code += "sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_flags_of_a_command_stand_as_they_were_declared(log):
    for name, first in (("train", "config"), ("lr-find", "config"), ("evaluate", "workdir")):
        flags = re.findall(r"^  --(\w+)", log("help", name), flags=re.MULTILINE)
        assert flags[0] == first
        assert log("help", name) == log("help", name)


def test_help_config_lists_every_field_as_its_flag_with_type_and_default(log):
    lines = log("help", "config").splitlines()
    fields = list(leaves(ExperimentConfig))
    assert len(fields) > 30
    for path, annotation, default in fields:
        flag = f"--config.{path}={shlex.quote(flag_text(default))}"
        assert f"  {flag}  {describe(annotation)}" in lines
    assert "      peak rate, after warm-up." in lines
    assert not [line for line in lines if len(line) > 100 and not line.startswith("  --config.")]


def test_every_flag_as_it_is_listed_sets_the_default_again():
    config = ExperimentConfig()
    for path, _, default in leaves(ExperimentConfig):
        override(config, path, flag_text(default))
    assert None not in (config.early_stopping, config.average, config.transfer)
    config.early_stopping = config.average = config.transfer = None
    assert config == ExperimentConfig()


def test_every_option_as_it_is_listed_has_its_default():
    for kind, name in NAMED:
        for option, (annotation, default) in declared_options(named_functions(kind)[name]).items():
            value = parse_literal(flag_text(default))
            assert check_value(value, annotation, f"{name}.{option}") == default


@pytest.mark.parametrize("spelling", ["optim", "config.optim", "--config.optim"])
def test_help_config_of_one_branch(log, spelling: str):
    flags = re.findall(r"--config\.(\S+)=", log("help", "config", spelling))
    assert "optim.learning_rate" in flags
    assert "optim.schedule.name" in flags
    assert all(flag.startswith("optim.") for flag in flags)


def test_help_config_of_one_field(log):
    assert log("help", "config", "train.batch_size") == (
        "  --config.train.batch_size=128  a whole number of at least 1\n"
        "      examples per step, over all devices.\n"
    )


@pytest.mark.parametrize(("kind", "name"), NAMED)
def test_list_of_one_name_shows_every_option(log, kind: str, name: str):
    text = log("list", kind, name)
    field, options_field = DETAILED[kind]
    assert f"  --{field}={name}\n" in text
    options = declared_options(named_functions(kind)[name])
    for option, (annotation, default) in options.items():
        flag = f"--{options_field}.{option}={flag_text(default)}"
        assert f"  {flag}  {describe(annotation)}\n" in text
    assert ("It has no options." in text) == (not options)


def test_list_of_one_name_says_what_its_options_mean(log):
    text = log("list", "optimizers", "adamw")
    assert "weight_decay=0.01  a finite number of at least 0\n      decay of kernels," in text
    assert "`cnn-lab list activations` names them." in log("list", "models", "mlp")
    decoder = log("list", "models", "conv_autoencoder").replace("\n      ", " ")
    of_output = decoder.partition("options.output_activation=")[2].partition("--config")[0]
    assert "`cnn-lab list activations` names them." in of_output
    of_kernels = decoder.partition("options.kernel_init=")[2].partition("--config")[0]
    assert "`cnn-lab list initializers` names them." in of_kernels


def test_list_alone_says_what_can_be_listed(log):
    assert log("list").splitlines() == [f"cnn-lab list {kind}" for kind in KINDS]


def test_every_activation_has_a_description(log):
    lines = log("list", "activations").splitlines()
    assert len(lines) > 10
    assert all(len(line.split()) > 3 for line in lines)


def test_every_initializer_has_a_description_by_its_other_name_too(log):
    rows = dict(line.split(maxsplit=1) for line in log("list", "initializers").splitlines())
    assert rows.keys() == INITIALIZERS.keys()
    assert "Xavier" in rows["glorot_uniform"]
    assert "Kaiming" in rows["he_normal"]
    assert "PyTorch" in rows["torch"]


def test_list_of_activations_and_tasks(log):
    activations = log("list", "activations")
    assert re.search(r"^relu  +\S", activations, re.MULTILINE)
    assert re.search(r"^identity  +Each value as it is", activations, re.MULTILINE)
    assert re.search(r"^tanh  +Hyperbolic tangent", activations, re.MULTILINE)
    assert log("list", "tasks").startswith("classification ")


def test_experiments_are_listed_even_if_one_is_broken(log, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments/a").mkdir(parents=True)
    (tmp_path / "experiments/a/good.py").write_text('"""A title.\n\nMore."""\n')
    (tmp_path / "experiments/a/torn.py").write_text("def (")
    (tmp_path / "experiments/a/bytes.py").write_bytes(b"\xff\xfe\x00")
    lines = log("list", "experiments").splitlines()
    assert "experiments/a/good.py   A title." in lines
    assert sum("(cannot be read: " in line for line in lines) == 2


def test_experiments_that_ship_are_listed_by_the_names_that_config_takes(
    log, tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    rows = dict(line.split(maxsplit=1) for line in log("list", "experiments").splitlines())
    assert rows["mnist/lenet5_1998"].startswith("LeNet-5 as of 1998 on MNIST")
    assert not [name for name in rows if name.startswith("studies")]
    for name in rows:
        assert load_config(name).model.name
    monkeypatch.chdir(Path(__file__).parents[2])
    assert dict(line.split(maxsplit=1) for line in log("list", "experiments").splitlines()) == rows


def test_docstring_sections_are_read_to_their_end():
    def documented() -> None:
        """Does something.

        Args:
            first: one line
                and another.
            **rest: with a colon: inside.

        Returns:
            second: nothing.
        """

    found = explained(documented, "Args")
    assert found == {"first": "one line and another.", "rest": "with a colon: inside."}
    assert explained(documented, "Attributes") == {}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(log, name: str):
    text = log("help", name)
    assert text.startswith(f"cnn-lab {name}")
    assert "Examples:" in text
