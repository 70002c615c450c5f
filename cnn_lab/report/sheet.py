"""Images beside augmented versions of them, as one picture."""

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageDraw

from cnn_lab.core.targets import TargetSpec

CELL = 88  # pixels that a small image is enlarged to, at least
GAP, CAPTION, LABEL = 4, 14, 96
BACKGROUND, INK, FRAME = (250, 250, 248), (60, 60, 60), (200, 85, 61)


def contact_sheet(
    images: UInt8[np.ndarray, "r s h w c"], names: Sequence[str], captions: Sequence[Sequence[str]]
) -> bytes:
    """A PNG with a row for each example: its name, the original in a frame, and its versions.

    Small images are enlarged by a whole factor; under each one stands its caption.
    """
    num_rows, num_columns, height, width, channels = images.shape
    factor = max(1, -(-CELL // max(height, width)))
    cell_width, cell_height = width * factor + GAP, height * factor + CAPTION + GAP
    sheet = Image.new(
        "RGB", (LABEL + num_columns * cell_width, num_rows * cell_height + GAP), BACKGROUND
    )
    pen = ImageDraw.Draw(sheet)
    for row in range(num_rows):
        top = row * cell_height + GAP
        pen.text((GAP, top + height * factor // 2 - 6), names[row][: LABEL // 7], fill=INK)
        for column in range(num_columns):
            left = LABEL + column * cell_width
            pixels = images[row, column]
            image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).convert("RGB")
            image = image.resize((width * factor, height * factor), Image.Resampling.NEAREST)
            sheet.paste(image, (left, top))
            if column == 0:
                edge = (left - 2, top - 2, left + width * factor + 1, top + height * factor + 1)
                pen.rectangle(edge, outline=FRAME, width=2)
            caption = captions[row][column][: max(4, width * factor // 6)]
            pen.text((left, top + height * factor), caption, fill=INK)
    buffer = io.BytesIO()
    sheet.save(buffer, format="png")
    return buffer.getvalue()


def target_captions(targets: Shaped[np.ndarray, "n ..."], spec: TargetSpec) -> list[str]:
    """Captions of targets: the class, the two largest classes of a mixed image, or the numbers."""
    class_names = spec.class_names
    if spec.kind == "numbers":
        return [", ".join(f"{value:.4g}" for value in row) for row in targets]
    if targets.ndim == 1:
        return [class_names[label] for label in targets]
    captions = []
    for shares in targets:
        largest = [k for k in np.argsort(-shares, kind="stable")[:2] if shares[k] >= 0.005]
        captions.append(", ".join(f"{class_names[k]} {shares[k]:.0%}" for k in largest))
    return captions
