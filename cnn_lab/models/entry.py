"""What the table of models says about each of them."""

import dataclasses
from collections.abc import Callable
from typing import Literal

from cnn_lab.models.heads import Classifier, ImageToImage

Outputs = Literal["logits", "pixel_logits", "images"]


@dataclasses.dataclass(frozen=True)
class ModelEntry:
    """A model that can be asked for by name.

    Attributes:
        make: (num_classes, **options) -> module; its signature declares the options. A model that
            returns images takes a number of classes too and does not look at it.
        title: one line for listings.
        paper: authors, year, venue or arXiv id.
        image_shape: (h, w, c) that the counts refer to.
        num_parameters: exact count at `image_shape` and `num_classes`.
        num_classes: that the counts refer to.
        outputs: `logits` [n k], `pixel_logits` [n h w k], or `images` [n h w c] like the input.
    """

    make: Callable[..., Classifier | ImageToImage]
    title: str
    paper: str
    image_shape: tuple[int, int, int]
    num_parameters: int
    num_classes: int = 10
    outputs: Outputs = "logits"
