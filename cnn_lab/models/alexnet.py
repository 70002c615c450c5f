"""AlexNet (Krizhevsky, Sutskever, Hinton 2012, "ImageNet classification with deep convolutional
neural networks", NIPS 25), in the paper's two halves and as the later single tower (Krizhevsky
2014, "One weird trick for parallelizing convolutional neural networks", arXiv:1404.5997).

Differs from the paper: 224-pixel images are padded by 2 pixels, which gives the maps of the paper's
arithmetic (55x55); `stem_padding=0` takes 227-pixel images instead. Weights start at He et al.'s
scale and biases at zero, instead of 0.01 and zero or one. Response normalisation crosses
the border between the halves. `alexnet` has torchvision's widths and, as there, no response
normalisation.
"""  # noqa: D205 - the title is a citation

import flax.linen as nn
import jax

from cnn_lab.config.values import Count, Natural, Positive, ProperFraction
from cnn_lab.core.arrays import Images
from cnn_lab.layers.factory import Dtype, LayerFactory
from cnn_lab.layers.normalization import local_response_norm
from cnn_lab.layers.pooling import max_pool
from cnn_lab.models.heads import Classifier, DenseHead
from cnn_lab.models.inputs import Stem, require_size
from cnn_lab.models.registry import register

KERNELS = (5, 3, 3, 3)  # of the second to fifth convolution
POOLED = (1, 2, 5)  # overlapping 3x3 pooling with stride 2 follows these


class AlexNetBackbone(nn.Module):
    """Five convolutions and three overlapping poolings.

    Attributes:
        features: channels of the convolutions.
        groups: of the convolutions; the halves of a convolution with 2 see half of the maps each.
        response_norm: whether local response normalisation follows the first two.
    """

    features: tuple[int, ...] = (64, 192, 384, 256, 256)
    groups: tuple[int, ...] = (1, 1, 1, 1, 1)
    response_norm: bool = False
    stem: Stem = "large"
    stem_padding: int = 2
    layers: LayerFactory = LayerFactory(dense_init="he_normal")

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> dict[str, jax.Array]:
        """Maps images [n h w c] to `conv1` to `conv5`, before pooling, and `pool5`."""
        del train  # nothing here differs
        if self.stem == "large":
            min_side, first = 67 - 2 * self.stem_padding, (11, 4, self.stem_padding)
        else:
            min_side, first = 15, (5, 1, 2)
        require_size(images, min_side, "AlexNet", self.stem)
        maps, x = {}, images
        sizes = (first, *((kernel, 1, kernel // 2) for kernel in KERNELS))
        convolutions = zip(self.features, sizes, self.groups, strict=True)
        for number, (features, size, groups) in enumerate(convolutions, start=1):
            name = f"conv{number}"
            conv = self.layers.conv(features, *size, groups=groups, bias=True, name=name)
            x = maps[name] = self.layers.act(conv(x))
            if self.response_norm and number <= 2:
                x = local_response_norm(x)
            if number in POOLED:
                x = max_pool(x, 3, 2)
        return {**maps, "pool5": x}


@register(
    "alexnet",
    "AlexNet, one tower",
    "Krizhevsky 2014, arXiv:1404.5997",
    (224, 224, 3),
    num_parameters=61_100_840,
    num_classes=1000,
    macs=714_188_480,
    small=(
        {"stem": "small", "width_multiplier": 0.125, "hidden": (32,), "pooled_size": 2},
        (16, 16, 3),
    ),
    variant={
        "features": (64, 192, 384, 256, 256),
        "groups": (1, 1, 1, 1, 1),
        "response_norm": False,
    },
)
@register(
    "alexnet_grouped",
    "AlexNet in two halves, as published",
    "Krizhevsky et al. 2012, NIPS 25",
    (224, 224, 3),
    num_parameters=60_965_224,
    num_classes=1000,
    macs=724_406_816,
    small=(
        {"stem": "small", "width_multiplier": 0.125, "hidden": (32,), "pooled_size": 1},
        (16, 16, 3),
    ),
    variant={
        "features": (96, 256, 384, 384, 256),
        "groups": (1, 2, 1, 2, 2),
        "response_norm": True,
    },
)
def alexnet(
    num_classes: int,
    stem: Stem = "large",
    stem_padding: Natural = 2,
    width_multiplier: Positive = 1.0,
    hidden: tuple[Count, ...] = (4096, 4096),
    pooled_size: Count = 6,
    activation: str = "relu",
    kernel_init: str = "he_normal",
    dropout_rate: ProperFraction = 0.5,
    dtype: Dtype = "float32",
    *,
    features: tuple[int, ...],
    groups: tuple[int, ...],
    response_norm: bool,
) -> Classifier:
    """AlexNet, as one tower or in two halves.

    Args:
        stem: `large` (11x11 convolution with stride 4) or `small` (5x5, stride 1) for images of
            some 32 pixels; to the latter, `pooled_size=3` and narrower `hidden` layers fit.
        stem_padding: pixels around the image for the large stem: 2 for 224 pixels, 0 for 227.
        width_multiplier: factor of the channels of every convolution.
        hidden: widths of the hidden dense layers.
        pooled_size: side in pixels of the map that the dense layers read; maps of other sizes
            are averaged to it.
        kernel_init: name of the initialiser of convolutions and hidden layers.
        dropout_rate: share of each hidden layer's values dropped in training.
    """
    layers = LayerFactory(activation, kernel_init, kernel_init, dtype)
    # In two equal halves.
    features = tuple(max(2, 2 * round(width_multiplier * f / 2)) for f in features)
    backbone = AlexNetBackbone(features, groups, response_norm, stem, stem_padding, layers)
    hidden = tuple(hidden)
    head = DenseHead(
        num_classes, hidden, layers, dropout_rate, pooled_size=pooled_size, output_init="normal"
    )
    return Classifier(backbone, head)
