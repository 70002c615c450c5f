"""SqueezeNet (Iandola et al. 2016, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters
and <0.5MB model size", arXiv:1602.07360, table 1), and version 1.1 of the authors' repository,
which pools earlier and needs 2.4 times less arithmetic.

Differs from the paper: as in torchvision, the first convolution has no padding and the last one
starts with a deviation of 0.01, the others at He et al.'s scale.
"""  # noqa: D205 - the title is a citation

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_lab.config.values import Positive, ProperFraction
from cnn_lab.core.arrays import Images, Maps
from cnn_lab.layers.factory import Dtype, LayerFactory
from cnn_lab.layers.pooling import max_pool
from cnn_lab.models.heads import Classifier, ConvHead
from cnn_lab.models.inputs import Stem, require_size
from cnn_lab.models.registry import register

# Channels between and after each fire module, the latter for both kernels together.
FIRES = (
    *((16, 128), (16, 128), (32, 256), (32, 256)),
    *((48, 384), (48, 384), (64, 512), (64, 512)),
)


class Fire(nn.Module):
    """Squeezes to few channels by 1x1, and expands them by 1x1 and by 3x3 convolutions.

    Attributes:
        squeezed: channels in between.
        features: channels of the result, half of them from each kernel.
    """

    squeezed: int
    features: int
    layers: LayerFactory

    @nn.compact
    def __call__(self, x: Images) -> Maps:
        """Maps [n h w c] to [n h w features]."""
        layers, half = self.layers, self.features // 2
        x = layers.act(layers.conv(self.squeezed, 1, bias=True, name="squeeze")(x))
        expanded = (
            layers.conv(half, 1, bias=True, name="expand1x1")(x),
            layers.conv(half, 3, bias=True, name="expand3x3")(x),
        )
        return layers.act(jnp.concatenate(expanded, axis=-1))


class SqueezeNetBackbone(nn.Module):
    """A convolution, eight fire modules and three poolings.

    Attributes:
        stem_features: channels of the first convolution.
        stem_kernel: its side.
        pooled: numbers of the layers before which the map is halved; fire modules begin with 2.
    """

    stem_features: int
    stem_kernel: int
    pooled: tuple[int, ...]
    width: float = 1.0
    stem: Stem = "large"
    layers: LayerFactory = LayerFactory(kernel_init="he_uniform")

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> dict[str, jax.Array]:
        """Maps images [n h w c] to `conv1` and `fire2` to `fire9`."""
        del train  # nothing here differs
        small, layers = self.stem == "small", self.layers
        kernel, strides, padding = (3, 1, 1) if small else (self.stem_kernel, 2, 0)
        # Three poolings need 12 pixels to leave 2.
        require_size(images, 12 if small else 22 + kernel, "SqueezeNet", self.stem)
        scaled = lambda features: 2 * max(1, round(self.width * features / 2))  # noqa: E731
        conv1 = layers.conv(
            scaled(self.stem_features), kernel, strides, padding, bias=True, name="conv1"
        )
        x = layers.act(conv1(images))
        maps = {"conv1": x}
        for number, (squeezed, features) in enumerate(FIRES, start=2):
            if number in self.pooled:
                x = max_pool(x, 3, 2, ceil_mode=True)
            name = f"fire{number}"
            x = maps[name] = Fire(scaled(squeezed), scaled(features), layers, name=name)(x)
        return maps


@register(
    "squeezenet1_0",
    "SqueezeNet 1.0",
    "Iandola et al. 2016, arXiv:1602.07360",
    (224, 224, 3),
    num_parameters=1_248_424,
    num_classes=1000,
    macs=818_924_576,
    variant={"stem_features": 96, "stem_kernel": 7, "pooled": (2, 5, 9)},
)
@register(
    "squeezenet1_1",
    "SqueezeNet 1.1",
    "Iandola et al. 2016, arXiv:1602.07360",
    (224, 224, 3),
    num_parameters=1_235_496,
    num_classes=1000,
    macs=349_151_936,
    small=({"stem": "small", "width_multiplier": 0.25}, (16, 16, 3)),
    variant={"stem_features": 64, "stem_kernel": 3, "pooled": (2, 4, 6)},
)
def squeezenet(
    num_classes: int,
    stem: Stem = "large",
    width_multiplier: Positive = 1.0,
    activation: str = "relu",
    kernel_init: str = "he_uniform",
    dropout_rate: ProperFraction = 0.5,
    dtype: Dtype = "float32",
    *,
    stem_features: int,
    stem_kernel: int,
    pooled: tuple[int, ...],
) -> Classifier:
    """A SqueezeNet.

    Args:
        stem: `large` (first convolution with stride 2) or `small` (3x3, stride 1) for images of
            some 32 pixels.
        width_multiplier: factor of the channels of every convolution but the last.
        dropout_rate: share of the values of the last map dropped in training.
    """
    layers = LayerFactory(activation, kernel_init, "normal", dtype)
    backbone = SqueezeNetBackbone(
        stem_features, stem_kernel, pooled, width_multiplier, stem, layers
    )
    return Classifier(backbone, ConvHead(num_classes, layers, dropout_rate))
