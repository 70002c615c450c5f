"""Residual networks for 32-pixel images (He, Zhang, Ren, Sun 2015, "Deep residual learning for
image recognition", arXiv:1512.03385, section 4.2): three stages of 16, 32 and 64 channels.

Differs from the paper: none in structure; where shortcuts are projections (`shortcut='B'`) they
have batch normalisation, and the last normalisation of a branch may start at zero (`zero_init`;
Goyal et al. 2017, arXiv:1706.02677).
"""  # noqa: D205 - the title is a citation

from collections.abc import Callable

from cnn_lab.config.ranges import Count, ProperFraction
from cnn_lab.layers.blocks import Dtype, Style
from cnn_lab.models.entry import ModelEntry
from cnn_lab.models.heads import Classifier, PooledHead
from cnn_lab.models.resnet import ResNetBackbone, Shortcut


def _maker(depth: int) -> Callable[..., Classifier]:
    def make(
        num_classes: int,
        shortcut: Shortcut = "A",
        width: Count = 16,
        activation: str = "relu",
        kernel_init: str = "he_normal_fan_out",
        zero_init: bool = False,
        drop_path_rate: ProperFraction = 0.0,
        dropout_rate: ProperFraction = 0.0,
        dtype: Dtype = "float32",
    ) -> Classifier:
        """A residual network of three stages of basic blocks.

        Args:
            num_classes: k.
            shortcut: where the shape changes: `A` (every second pixel, channels of zeros), `B`
                (a projection); `none` adds no input anywhere.
            width: channels of the first stage.
            activation: name of the activation.
            kernel_init: name of the initialiser of convolutions.
            zero_init: start the last normalisation of every branch at zero.
            drop_path_rate: share of examples whose branch is removed in training, in the last
                block; it rises linearly from none in the first. Huang et al. 2016 use 0.5.
            dropout_rate: share of the pooled features dropped in training.
            dtype: of the computation.
        """
        style = Style(activation, kernel_init, "normal", dtype)
        backbone = ResNetBackbone(
            depths=((depth - 2) // 6,) * 3,
            width=width,
            stem="small",
            shortcut=shortcut,
            zero_init=zero_init,
            drop_path_rate=drop_path_rate,
            style=style,
        )
        return Classifier(backbone, PooledHead(num_classes, style, dropout_rate))

    make.__name__ = make.__qualname__ = f"resnet{depth}"
    return make


_PAPER = "He et al. 2015, arXiv:1512.03385"
_COUNTS = {
    20: 269_722,
    32: 464_154,
    44: 658_586,
    56: 853_018,
    110: 1_727_962,
    1202: 19_421_274,
}
ENTRIES = {
    f"resnet{depth}": ModelEntry(
        _maker(depth), f"ResNet-{depth} for 32-pixel images", _PAPER, (32, 32, 3), count
    )
    for depth, count in _COUNTS.items()
}
