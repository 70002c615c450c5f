"""The plain twins of residual networks, for what depth does without shortcuts (He, Zhang, Ren, Sun
2015, "Deep residual learning for image recognition", arXiv:1512.03385, tables 1 and 2, figure 6).

Differs from the paper: nothing known. The twins of 32-pixel networks have as many parameters as
those with shortcuts of option A; plain18 and plain34 lack the three projections of option B
(173,824 parameters, their normalisation among them).
"""  # noqa: D205 - the title is a citation

from collections.abc import Callable

from cnn_lab.config.ranges import Count, ProperFraction
from cnn_lab.layers.blocks import Dtype, Style
from cnn_lab.models.entry import ModelEntry
from cnn_lab.models.heads import Classifier, PooledHead
from cnn_lab.models.resnet import ResNetBackbone, Stem


def _maker(
    name: str, depths: tuple[int, ...], default_stem: Stem, default_width: int
) -> Callable[..., Classifier]:
    def make(
        num_classes: int,
        stem: Stem = default_stem,
        width: Count = default_width,
        activation: str = "relu",
        kernel_init: str = "he_normal_fan_out",
        dropout_rate: ProperFraction = 0.0,
        dtype: Dtype = "float32",
    ) -> Classifier:
        """A residual network without its shortcuts.

        Args:
            num_classes: k.
            stem: `large` (7x7 convolution and pooling, a quarter of the size) or `small` (3x3
                convolution) for images of some 32 pixels.
            width: channels of the first stage.
            activation: name of the activation.
            kernel_init: name of the initialiser of convolutions.
            dropout_rate: share of the pooled features dropped in training.
            dtype: of the computation.
        """
        style = Style(activation, kernel_init, "normal", dtype)
        backbone = ResNetBackbone(
            depths=depths, width=width, stem=stem, shortcut="none", style=style
        )
        return Classifier(backbone, PooledHead(num_classes, style, dropout_rate))

    make.__name__ = make.__qualname__ = name
    return make


def _entry(
    num_layers: int, depths: tuple[int, ...], num_parameters: int, *, large: bool
) -> dict[str, ModelEntry]:
    name = f"plain{num_layers}"
    return {
        name: ModelEntry(
            _maker(name, depths, *(("large", 64) if large else ("small", 16))),
            f"ResNet-{num_layers}'s twin without shortcuts",
            "He et al. 2015, arXiv:1512.03385",
            (224, 224, 3) if large else (32, 32, 3),
            num_parameters,
            1000 if large else 10,
        )
    }


ENTRIES = {
    **_entry(18, (2, 2, 2, 2), 11_515_688, large=True),
    **_entry(34, (3, 4, 6, 3), 21_623_848, large=True),
    **_entry(20, (3, 3, 3), 269_722, large=False),
    **_entry(32, (5, 5, 5), 464_154, large=False),
    **_entry(44, (7, 7, 7), 658_586, large=False),
    **_entry(56, (9, 9, 9), 853_018, large=False),
}
