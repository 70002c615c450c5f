"""Decodes every file of a listed folder once, before anything is trained on it.

A damaged file that surfaces in hour three costs more than a minute now. A file that announces more
pixels than PIL allows is refused without being decoded.
"""

import functools
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from cnn_lab.core.errors import DataError, is_out_of_open_files
from cnn_lab.data.datasets.folder import ImageFile, Listing
from cnn_lab.data.decoding import GRAY_MODES, open_file, upright_size
from cnn_lab.data.parallel import Log, ThrottledLog, map_in_order

_MAX_LISTED = 10
_FILES_AT_ONCE = 16


@dataclass(frozen=True)
class CheckedFolder:
    """The usable files of a folder by split, and the name and reason of each bad one."""

    files: dict[str, list[ImageFile]]
    image_shape: tuple[int | None, int | None, int]
    bad: tuple[tuple[str, str], ...]


def check_files(
    root: Path, listing: Listing, *, on_bad_files: str, progress: Log | None = None
) -> CheckedFolder:
    """Decodes every file of a folder once.

    Raises:
        DataError: files cannot be used and `on_bad_files` is `error`, not `skip`; or a class has
            none that can.
    """
    good, bad = [], list(listing.unusable)
    shapes: Counter[tuple[int, int, int]] = Counter()
    log_progress, num_files = ThrottledLog(progress), len(listing.files)
    if progress is not None:
        progress(f"checking {num_files:,} files of {root}")
    with warnings.catch_warnings():
        # `open_file` compares every size with PIL's limit, so the warning adds nothing.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        inspect = functools.partial(_inspect, root)
        outcomes = map_in_order(inspect, listing.files, chunk_size=_FILES_AT_ONCE)
        for number, (file, outcome) in enumerate(zip(listing.files, outcomes, strict=True), 1):
            if isinstance(outcome, str):
                bad.append((file.name, outcome))
            else:
                good.append(file)
                shapes[outcome] += 1
            log_progress(f"checked {number:,} of {num_files:,} files, {len(bad):,} bad")
    bad.sort()
    if bad and on_bad_files == "error":
        raise DataError(
            f"{len(bad)} of {len(listing.files) + len(listing.unusable)} files in {root} cannot be "
            f"used: {describe_bad(bad)}; repair or remove them, or leave them out with `cnn-lab "
            f"data prepare {listing.name} --skip_bad_files`.",
            where=str(root),
            found=bad,
        )
    by_split: dict[str, list[ImageFile]] = {split: [] for split in listing.splits}
    for file in good:
        by_split[file.split].append(file)
    for split, files in by_split.items():
        listed = {file.label for file in listing.files if file.split == split}
        lost = listed - {file.label for file in files} if listing.class_names else ()
        for label in sorted(label for label in lost if isinstance(label, int)):
            raise DataError(
                f"Class {listing.class_names[label]!r} has no usable image in split {split!r} of "
                f"{root}; add some or remove the class.",
                where=str(root),
                found=listing.class_names[label],
            )
    heights, widths, channels = (set(sizes) for sizes in zip(*shapes, strict=True))
    height, width = None, None
    if len(heights) == len(widths) == 1:
        height, width = heights.pop(), widths.pop()
    return CheckedFolder(by_split, (height, width, max(channels)), tuple(bad))


def describe_bad(bad: Sequence[tuple[str, str]]) -> str:
    """A sentence's list of files and reasons, cut after the tenth."""
    listing = ", ".join(f"{name} ({reason})" for name, reason in bad[:_MAX_LISTED])
    return listing + (f" and {len(bad) - _MAX_LISTED} more" if len(bad) > _MAX_LISTED else "")


def _inspect(root: Path, file: ImageFile) -> tuple[int, int, int] | str:
    """Height, width and channels of an image, or the reason why it cannot be used."""
    path = root / file.name
    try:
        if not path.stat().st_size:
            return "an empty file"
        with path.open("rb") as encoded, open_file(encoded) as image:
            image.load()
            width, height = upright_size(image)
            return (height, width, 1 if image.mode in GRAY_MODES else 3)
    except UnidentifiedImageError:
        return "not a JPEG or PNG image"
    except Exception as error:  # PIL raises many kinds for damaged files, SyntaxError among them
        if isinstance(error, MemoryError) or is_out_of_open_files(error):
            raise  # the file may be good, and must not be left out because the computer is short
        return " ".join(str(error).split()) or type(error).__name__
