"""Autoencoders and U-Net."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from refusals import refused

from cnn_lab.core import trees
from cnn_lab.core.errors import ConfigError
from cnn_lab.layers.unpooling import max_pool_with_indices, max_unpool
from cnn_lab.models.autoencoder import conv_autoencoder, dense_autoencoder
from cnn_lab.models.unet import unet


def shapes(module, image_shape, method=None) -> Any:
    """Shapes of the parameters, or of what a method returns."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)
    if method is None:
        return variables["params"]
    return jax.eval_shape(lambda v, x: module.apply(v, x, method=method), variables, images)


def maps_of(model, image_shape) -> dict[str, tuple[int, ...]]:
    maps = shapes(model, image_shape, method=lambda m, x: m.backbone(x, train=False))
    return {name: leaf.shape[1:] for name, leaf in maps.items()}


def counts(tree) -> dict[str, int]:
    return {name: trees.count(layer) for name, layer in tree.items()}


def test_the_parameters_of_each_layer_of_the_dense_autoencoder():
    params = shapes(dense_autoencoder(10), (28, 28, 1))
    assert counts(params["backbone"]) == {
        "hidden1": 785_000,
        "hidden2": 500_500,
        "hidden3": 125_250,
        "code": 7_530,
    }
    assert counts(params["head"]) == {
        "hidden1": 7_750,
        "hidden2": 125_500,
        "hidden3": 501_000,
        "output": 784_784,
    }


def test_the_parameters_of_each_layer_of_the_convolutional_autoencoder():
    params = shapes(conv_autoencoder(10), (28, 28, 1))
    assert counts(params["backbone"]) == {
        "stage1_conv": 9 * 32 + 32,
        "stage2_conv": 9 * 32 * 64 + 64,
        "code_conv": 9 * 64 * 8 + 8,
    }
    assert counts(params["head"]) == {
        "code_conv": 9 * 8 * 64 + 64,
        "stage2_conv": 9 * 64 * 32 + 32,
        "output": 9 * 32 + 1,
    }
    assert maps_of(conv_autoencoder(10), (28, 28, 1)) == {
        "stage1": (28, 28, 32),
        "stage2": (14, 14, 64),
        "code": (7, 7, 8),
    }


@pytest.mark.parametrize("unpooling", ["remembered", "nearest", "transposed"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_images_come_back_in_their_shape(unpooling, batch_norm):
    model = conv_autoencoder(10, (4, 5, 6), 2, unpooling=unpooling, batch_norm=batch_norm)
    images = shapes(model, (24, 16, 3), method=lambda m, x: m(x, train=False))
    assert images.shape == (1, 24, 16, 3)
    params = trees.flatten(shapes(model, (24, 16, 3)))
    assert any("_up/" in path for path in params) == (unpooling == "transposed")
    assert any("_bn/" in path for path in params) == batch_norm


@pytest.mark.parametrize("unpooling", ["remembered", "nearest"])
def test_remembered_maxima_pass_the_code_by(unpooling):
    """With two codes swapped, what was seen of the image is the places of its maxima."""
    model = conv_autoencoder(10, (4,), 1, unpooling=unpooling)
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    variables = jax.jit(lambda: model.init(jax.random.key(1), images, train=False))()

    def decoded(module, images):
        maps = module.backbone(images, train=False)
        swapped = {**maps, "code": maps["code"][::-1]}
        return (
            module.head(maps, (8, 8, 1), train=False),
            module.head(swapped, (8, 8, 1), train=False)[::-1],
        )

    decodings: Any = model.apply(variables, images, method=decoded)
    assert np.array_equal(*decodings) == (unpooling == "nearest")


@pytest.mark.parametrize(("size", "tile"), [((6, 8), (2, 2)), ((7, 5), (2, 2)), ((6, 9), (3, 2))])
def test_unpooling_by_tiles_equals_scattering(size, tile):
    images = jax.random.normal(jax.random.key(0), (2, *size, 3))
    values, indices = max_pool_with_indices(images, tile)
    weights = jax.random.normal(jax.random.key(1), images.shape)

    def total(values, *tile):
        unpooled = max_unpool(values, indices, size, *tile)
        return jnp.sum(unpooled * weights), unpooled

    by_scattering = jax.grad(total, has_aux=True)(values)
    by_tiles = jax.grad(total, has_aux=True)(values, tile)
    jax.tree.map(np.testing.assert_array_equal, by_tiles, by_scattering)
    assert np.count_nonzero(by_tiles[1]) == values.size


def test_a_linear_autoencoder_finds_the_principal_components():
    """Baldi & Hornik 1989, Neural Networks 2(1): no other minimum than that of PCA."""
    model = dense_autoencoder(0, hidden=(), code_size=2, kernel_init="lecun_normal")
    scales = jnp.array([3.0, 2.0, 1.0, 0.5, 0.3, 0.1])
    pixels = jax.random.normal(jax.random.key(0), (64, 6)) * scales[None]
    mixed = pixels @ jnp.linalg.qr(jax.random.normal(jax.random.key(1), (6, 6)))[0]
    images = (mixed - mixed.mean(0, keepdims=True)).reshape(64, 2, 3, 1)
    optimizer = optax.adam(0.03)

    def loss(params):
        reconstruction: Any = model.apply({"params": params}, images, train=True)
        return jnp.mean(jnp.square(reconstruction - images))

    @jax.jit
    def train(key):
        params = model.init(key, images, train=False)["params"]

        def step(carry, _):
            params, state = carry
            value, gradient = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, optimizer.init(params)), None, length=2000)[1]

    singular = np.linalg.svd(np.asarray(images).reshape(64, 6), compute_uv=False)
    losses = train(jax.random.key(2))
    least = np.sum(singular[2:] ** 2) / images.size
    assert float(losses[-1]) == pytest.approx(least, rel=1e-3)
    assert float(losses[0]) > 2 * least


def test_the_maps_of_unet():
    assert maps_of(unet(2), (64, 32, 1)) == {
        "stage1": (64, 32, 64),
        "stage2": (32, 16, 128),
        "stage3": (16, 8, 256),
        "stage4": (8, 4, 512),
        "stage5": (4, 2, 1024),
    }


def test_the_parameters_of_each_step_of_unet():
    def pair(channels: int, features: int) -> int:
        return 9 * (channels + features) * features + 2 * features

    params = shapes(unet(2), (32, 32, 1))
    widths = (1, 64, 128, 256, 512, 1024)
    assert counts(params["backbone"]) == {
        f"stage{i}": pair(widths[i - 1], widths[i]) for i in range(1, 6)
    }
    assert counts(params["head"]) == {
        **{f"stage{i}": pair(2 * widths[i], widths[i]) for i in range(1, 5)},
        **{f"stage{i}_up": 4 * widths[i + 1] * widths[i] + widths[i] for i in range(1, 5)},
        "output": 64 * 2 + 2,
    }


def test_unet_with_batch_normalisation_has_no_biases_before_it():
    params = trees.flatten(shapes(unet(2, num_steps=2, width=4, batch_norm=True), (8, 8, 1)))
    biased = {path for path in params if path.endswith("/bias") and "/bn" not in path}
    assert biased == {"head/stage1_up/bias", "head/stage2_up/bias", "head/output/bias"}


def test_a_pixel_of_unet_sees_its_surroundings_and_no_more():
    """One step: 3x3 twice, pooled 3x3 twice, up, 3x3 twice: at most 11 pixels in each direction."""
    model = unet(2, num_steps=1, width=4)
    images = jax.random.normal(jax.random.key(0), (1, 32, 32, 1))
    variables = jax.jit(lambda: model.init(jax.random.key(1), images, train=False))()

    def middle(images):
        logits: Any = model.apply(variables, images, train=False)
        return jnp.sum(logits[0, 16, 16])

    seen = np.argwhere(np.asarray(jax.jit(jax.grad(middle))(images))[0, :, :, 0])
    # Fine path: 2 + 2 pixels around. Coarse path from output 14..18: cells 7..9, +-2 -> 5..11,
    # pixels 10..23, +-2 -> 8..25.
    assert seen.min() >= 8
    assert seen.max() <= 25
    assert len(seen) > 100


@pytest.mark.parametrize(
    ("make", "side", "allowed"),
    [
        (lambda: unet(2), 572, "560x560 or 576x576"),
        (lambda: unet(2), 12, "16x16"),
        (lambda: conv_autoencoder(10, (4, 4, 4)), 28, "24x24 or 32x32"),
    ],
)
def test_sides_that_cannot_be_halved_are_refused(make, side, allowed):
    found = f"{side}x{side}"
    with refused(ConfigError, where="config.data.image_size", found=found, allowed=allowed):
        shapes(make(), (side, side, 1))


def test_a_convolutional_autoencoder_without_pooling_is_refused():
    with refused(ConfigError, where="config.model.options.widths", found=()):
        conv_autoencoder(10, widths=())
