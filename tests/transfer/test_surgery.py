"""Weights brought into networks of other classes, channels and image sizes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from cnn_lab.core import trees
from cnn_lab.core.errors import CheckpointError, ConfigError
from cnn_lab.models.registry import MODELS
from cnn_lab.transfer.plan import stages_of
from cnn_lab.transfer.surgery import adapt_pretrained, other_channels

OLD = ("ant", "bee", "cat")
OPTIONS: dict[str, Any] = {"width": 4}


class Weights(NamedTuple):
    """Variables of a source, and its classes."""

    variables: Any
    class_names: tuple[str, ...]


def make(num_classes: int) -> Any:
    return MODELS["resnet20"].make(num_classes, **OPTIONS)


def weights(channels: int = 3, make=make, side: int = 8) -> Weights:
    """Of random values, so that nothing is alike by chance."""
    image = jnp.zeros((1, side, side, channels))
    init = lambda key: make(len(OLD)).init(key, image, train=False)  # noqa: E731
    variables = jax.eval_shape(init, jax.random.key(0))
    generator = np.random.default_rng(0)
    draw = lambda leaf: generator.normal(size=leaf.shape).astype(np.float32)  # noqa: E731
    return Weights(jax.tree.map(draw, dict(variables)), OLD)


def brought(source: Weights, names=OLD, channels: int = 3, make=make, side: int = 8, **options):
    stages = stages_of(make(len(names)), (side, side, channels))
    return adapt_pretrained(*source, make, names, (side, side, channels), stages, **options)


def test_the_same_network_is_the_same_bits():
    source = weights()
    found = brought(source)
    assert trees.digests(found.variables) == trees.digests(source.variables)
    assert found.unchanged == set(trees.flatten(source.variables["params"]))
    assert found.notes == ()


def test_other_classes_begin_anew():
    found = brought(weights(), ("dog", "elk"))
    given = trees.flatten(found.variables)
    assert not any("head/output" in path for path in given)
    assert "params/backbone/stem_conv/kernel" in given
    assert not any(path.startswith("head") for path in found.unchanged)
    assert found.notes == ("output layer: 0 of 2 classes kept by name, the others begin anew",)


def test_classes_that_both_have_are_kept_by_name():
    source = weights()
    found = brought(source, ("dog", "cat", "ant", "elk"), seed=3)
    output, before = found.variables["params"]["head"]["output"], source.variables["params"]["head"]
    assert output["kernel"].shape == (16, 4)
    for here, there in ((1, 2), (2, 0)):
        assert (output["kernel"][:, here] == before["output"]["kernel"][:, there]).all()
        assert output["bias"][here] == before["output"]["bias"][there]
    assert (output["bias"][[0, 3]] == 0).all()
    begun = output["kernel"][:, [0, 3]]
    assert 0 < abs(begun).max() < 1  # as the model begins, not as the source is
    assert not any(path.startswith("head") for path in found.unchanged)
    assert found.notes == ("output layer: 2 of 4 classes kept by name, the others begin anew",)
    again = brought(source, ("dog", "cat", "ant", "elk"), seed=3)
    assert trees.digests(again.variables) == trees.digests(found.variables)


def test_classes_begin_anew_on_request():
    found = brought(weights(), OLD, keep_classes=False)
    assert not any("head/output" in path for path in trees.flatten(found.variables))


def test_gray_images_see_the_sum_over_the_colours():
    source = weights(channels=3)
    found = brought(source, channels=1)
    image = jnp.asarray(np.random.default_rng(1).normal(size=(2, 8, 8, 1)), jnp.float32)
    gray = make(3).apply(found.variables, image, train=False)
    colour = make(3).apply(source.variables, jnp.repeat(image, 3, axis=-1), train=False)
    np.testing.assert_allclose(gray, colour, rtol=1e-4, atol=1e-4)
    assert found.notes == ("backbone/stem_conv: 3 input channels summed to 1",)
    assert "backbone/stem_conv/kernel" not in found.unchanged


def test_colours_are_seen_as_their_mean():
    source = weights(channels=1)
    found = brought(source, channels=3)
    image = jnp.asarray(np.random.default_rng(1).normal(size=(2, 8, 8, 3)), jnp.float32)
    colour = make(3).apply(found.variables, image, train=False)
    gray = make(3).apply(source.variables, image.mean(-1, keepdims=True), train=False)
    np.testing.assert_allclose(colour, gray, rtol=1e-4, atol=1e-4)
    assert found.notes == ("backbone/stem_conv: 1 input channel repeated to 3",)


def test_there_and_back_the_first_kernel_is_the_same():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 1, 4)).astype(np.float32)
    np.testing.assert_allclose(other_channels(other_channels(kernel, 3), 1), kernel, rtol=1e-6)


def test_what_pools_takes_images_of_any_size():
    found = brought(weights(side=8), side=16)
    assert found.notes == ()


def test_chosen_layers_begin_anew_and_others_need_not_fit():
    lenet = lambda num_classes: MODELS["lenet5"].make(num_classes)  # noqa: E731
    source = weights(1, lenet, 32)
    found = brought(source, OLD, 1, lenet, 32, fresh="^backbone/c5")
    assert not any("c5" in path for path in trees.flatten(found.variables))
    assert found.notes == ("2 variables begin anew by config.transfer.fresh",)


def test_differences_are_listed():
    with pytest.raises(CheckpointError) as caught:
        brought(weights(), make=lambda n: MODELS["resnet20"].make(n, width=8))
    lines = str(caught.value).splitlines()
    assert lines[0] == "The weights of the source do not fit the model:"
    assert any(
        "other shape: params/backbone/stage1_block1/bn1/scale is (4,) in the source, (8,) here"
        in line
        for line in lines
    )
    assert lines[-2].startswith("  ... and ")
    assert lines[-1].startswith("Give config.model and config.data.image_size as the source has")


def test_layers_that_only_one_of_them_has_are_found():
    deeper = lambda n: MODELS["resnet32"].make(n, **OPTIONS)  # noqa: E731
    for source, model in ((weights(), deeper), (weights(make=deeper), make)):
        with pytest.raises(CheckpointError) as caught:
            brought(source, make=model)
        assert caught.value.where == "config.transfer.source"
        assert "params/backbone/stage1_block4/bn1/bias" in caught.value.found
        assert all("_block4/" in path or "_block5/" in path for path in caught.value.found)


def test_a_rule_that_matches_nothing_is_refused():
    with refused(ConfigError, where="config.transfer.fresh", found="backbone/stage9"):
        brought(weights(), fresh="backbone/stage9")


def test_rows_of_shared_classes_need_the_same_features():
    linear = lambda num_classes: MODELS["linear"].make(num_classes)  # noqa: E731
    source = weights(1, linear, 8)
    shared = (*OLD[:-1], "other")
    with refused(CheckpointError, found=["params/head/output/kernel"]):
        brought(source, shared, 1, linear, 10)
    assert "0 of" in brought(source, ("new", "others"), 1, linear, 10).notes[0]
