"""Models are registered from outside, and what is wrong with one is told by its name."""

from typing import Any

import pytest
from refusals import refused

from cnn_lab.cli.main import main
from cnn_lab.config.values import check_options, declared_options
from cnn_lab.core.errors import ConfigError
from cnn_lab.models.heads import Classifier, DenseHead
from cnn_lab.models.registry import MODELS, register
from cnn_lab.models.simple import Dense

PLACE = ("Mine", "Nobody 2020", (4, 4, 1))


@pytest.fixture(autouse=True)
def _as_before():
    """Takes what a test registers away again."""
    before = set(MODELS)
    yield
    for name in set(MODELS) - before:
        del MODELS[name]


def _mine(num_classes: int, width: int = 3, *, depth: int = 1) -> Classifier:
    """A net of mine."""
    return Classifier(Dense((width,) * depth), DenseHead(num_classes))


def test_a_model_is_registered_by_a_decorator_wherever_it_is():
    assert register("_mine", *PLACE, num_parameters=16 * 3 + 3 + 3 * 10 + 10)(_mine) is _mine
    entry = MODELS["_mine"]
    assert entry.make is _mine
    assert not entry.is_ours
    assert (entry.title, entry.paper, entry.image_shape) == PLACE
    entry.verify()
    assert "_mine" in MODELS
    assert [*MODELS] == sorted(MODELS)


def test_a_variant_has_a_name_and_defaults_of_its_own():
    register("deep", *PLACE, num_parameters=0, variant={"depth": 3, "width": 2})(_mine)
    register("shallow", *PLACE, num_parameters=0, variant={"depth": 0})(_mine)
    deep, shallow = MODELS["deep"].make, MODELS["shallow"].make
    assert (deep.__name__, shallow.__name__) == ("deep", "shallow")
    assert declared_options(deep) == {"width": (int, 2)}
    assert declared_options(shallow) == {"width": (int, 3)}
    assert deep(10) == _mine(10, 2, depth=3)
    assert deep(10, 5) == deep(10, width=5) == _mine(10, 5, depth=3)
    with refused(ConfigError, where="model.options", found="depth", allowed=["width"]):
        check_options(deep, {"depth": 2}, "model.options")
    with pytest.raises(TypeError, match="depth"):
        deep(10, depth=2)


@pytest.mark.parametrize("field", ["num_parameters", "macs"])
def test_a_wrong_count_is_refused_by_name_wherever_it_is_shown(field, capfd):
    counts: dict[str, Any] = {"num_parameters": 91, "macs": 78}
    found = counts[field]
    register("_mine", *PLACE, **{**counts, field: 12_345})(_mine)
    with refused(ConfigError, where=field, found=12_345, allowed=str(found)):
        MODELS["_mine"].verify()
    text = f"The model _mine is registered with {field}=12_345, but on images of 4x4x1 with 10 "
    for command in (["list", "models"], ["summary", "--model=_mine"]):
        assert main(command) != 0
        assert text in capfd.readouterr().err


def _without_annotation(num_classes: int, width=3) -> Any: ...


def _without_default(num_classes: int, width: int) -> Any: ...


def _with_width(num_classes: int, width: int = 3) -> Any: ...


@pytest.mark.parametrize(
    ("make", "found", "allowed"),
    [
        (_without_annotation, "width=3", "annotated with its type, such as width: int"),
        (_without_default, "width: int", "given a default, so that it is an option"),
    ],
)
def test_a_parameter_that_cannot_be_an_option_is_refused_by_name(make, found, allowed):
    where = f"The parameter width of the model mine in {__name__}"
    with refused(ConfigError, where=where, found=found, allowed=allowed):
        register("mine", *PLACE, num_parameters=0)(make)


def test_a_variant_of_a_parameter_that_is_none_is_refused():
    allowed = ["depth", "num_classes", "width"]
    with refused(ConfigError, where="mine", found="hight", allowed=allowed):
        register("mine", *PLACE, num_parameters=0, variant={"hight": 2})(_mine)


def test_a_name_is_taken_once():
    with refused(ConfigError, found="lenet5"):
        register("lenet5", *PLACE, num_parameters=0)(_mine)
    register("mine", *PLACE, num_parameters=0)(_mine)
    with refused(ConfigError, found="mine"):
        register("mine", *PLACE, num_parameters=0)(_with_width)


def test_a_function_that_is_defined_again_takes_its_own_place():
    def define(number: int) -> Any:
        @register("again", *PLACE, num_parameters=number)
        def again(num_classes: int) -> Classifier:
            return _mine(num_classes)

        return again

    define(1)
    again = define(2)
    assert (MODELS["again"].make, MODELS["again"].num_parameters) == (again, 2)
