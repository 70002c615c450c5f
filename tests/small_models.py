"""Small forms of models, for arithmetic."""

from typing import Any

# Options and image. Every file of architectures has one at least.
SMALL: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "alexnet": (
        {"stem": "small", "width_multiplier": 0.125, "hidden": (32,), "pooled_size": 2},
        (16, 16, 3),
    ),
    "alexnet_grouped": (
        {"stem": "small", "width_multiplier": 0.125, "hidden": (32,), "pooled_size": 1},
        (16, 16, 3),
    ),
    "googlenet": (
        {"stem": "small", "width_multiplier": 0.125, "blocks": (1, 1, 1)},
        (16, 16, 3),
    ),
    "inception_v3": (
        {"stem": "small", "width_multiplier": 0.125, "blocks": (1, 1, 1)},
        (16, 16, 3),
    ),
    "conv_autoencoder": ({"widths": (4, 6), "code_channels": 2}, (8, 8, 1)),
    "dense_autoencoder": ({"hidden": (20, 12), "code_size": 6}, (6, 6, 1)),
    "densenet_cifar": ({"depth": 10, "growth": 4, "bottleneck": True}, (8, 8, 3)),
    "lenet5": ({}, (32, 32, 1)),
    "linear": ({}, (28, 28, 1)),
    "mlp": ({}, (28, 28, 1)),
    "perceptron": ({}, (28, 28, 1)),
    "plain20": ({"width": 4}, (8, 8, 3)),
    "resnet18": ({"stem": "small", "width": 8}, (16, 16, 3)),
    "resnet20": ({"width": 4, "drop_path_rate": 0.3}, (8, 8, 3)),
    "resnext50_32x4d": ({"width": 16}, (32, 32, 3)),
    "unet": ({"num_steps": 1, "width": 4, "dropout_rate": 0.2}, (8, 8, 1)),
    "wide_resnet28_10": ({"depth": 10, "width": 1, "dropout_rate": 0.3}, (8, 8, 3)),
    "squeezenet1_1": ({"stem": "small", "width_multiplier": 0.25}, (16, 16, 3)),
    "vgg11": ({"width": 8, "hidden": (32,), "pooled_size": 1}, (32, 32, 3)),
    "vgg11_bn": ({"width": 8, "hidden": (32,), "pooled_size": 1}, (32, 32, 3)),
    "conv1d": ({"widths": (8, 12), "kernel_size": 3}, (8, 8, 1)),
    "convnext_tiny": (
        {"stem": "small", "depths": (1, 1, 1, 1), "widths": (4, 8, 8, 8)},
        (16, 16, 3),
    ),
    "efficientnet_b0": (
        {"stem": "small", "width_multiplier": 0.25, "depth_multiplier": 0.1},
        (8, 8, 3),
    ),
    "gru": ({"hidden": 8, "order": "pixels"}, (6, 6, 1)),
    "lstm": ({"hidden": 8, "num_layers": 2, "bidirectional": True}, (8, 8, 1)),
    "mobilenet_v2": (
        {"stem": "small", "width_multiplier": 0.25, "depths": (1, 2, 1, 1, 1, 1, 1)},
        (8, 8, 3),
    ),
    "rnn": ({"hidden": 8}, (8, 8, 1)),
    "tcn": ({"hidden": 10, "dropout_rate": 0.1}, (8, 8, 1)),
}
