"""The one table of models: what each file of architectures lists."""

from cnn_lab.models import (
    alexnet,
    autoencoder,
    cifar_resnet,
    convnext,
    densenet,
    efficientnet,
    googlenet,
    inception_v3,
    lenet,
    mobilenet_v2,
    plain,
    recurrent,
    resnet,
    simple,
    squeezenet,
    temporal,
    unet,
    vgg,
    wide_resnet,
)
from cnn_lab.models.entry import ModelEntry

MODELS: dict[str, ModelEntry] = dict(
    sorted(
        {
            **alexnet.ENTRIES,
            **autoencoder.ENTRIES,
            **cifar_resnet.ENTRIES,
            **convnext.ENTRIES,
            **densenet.ENTRIES,
            **efficientnet.ENTRIES,
            **googlenet.ENTRIES,
            **inception_v3.ENTRIES,
            **lenet.ENTRIES,
            **mobilenet_v2.ENTRIES,
            **plain.ENTRIES,
            **recurrent.ENTRIES,
            **resnet.ENTRIES,
            **simple.ENTRIES,
            **squeezenet.ENTRIES,
            **temporal.ENTRIES,
            **unet.ENTRIES,
            **vgg.ENTRIES,
            **wide_resnet.ENTRIES,
        }.items()
    )
)
