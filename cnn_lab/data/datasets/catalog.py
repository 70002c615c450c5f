"""Opens data sets by name: published ones, a folder of images, or any prepared by TFDS.

The test split is locked: `Dataset.split` refuses it, so that nothing that trains, stops or tunes
can look at it by accident. `unlock_test` is for `cnn-lab evaluate --split=test` alone.
"""

import functools
import hashlib
import os
import re
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from absl import logging

from cnn_lab.core.errors import ConfigError, DataError
from cnn_lab.core.targets import TargetSpec
from cnn_lab.data.datasets.check_images import check_files, describe_bad
from cnn_lab.data.datasets.description import PREPARED_VERSION, DatasetDescription
from cnn_lab.data.datasets.download import obtain_files, require_folder
from cnn_lab.data.datasets.folder import Listing, list_folder
from cnn_lab.data.datasets.published import DATASETS
from cnn_lab.data.datasets.table import list_table
from cnn_lab.data.parallel import Log
from cnn_lab.data.source import Source, SourceInfo, Storage
from cnn_lab.data.storage import prepared

_VERSION = re.compile(r"\d+\.\d+\.\d+")
_MAX_FOLDER_COPIES = 2
_OTHER_NAMES = (
    "a folder of images is written folder:PATH, a CSV table of them table:FILE, a data set "
    "prepared by TFDS tfds:NAME or tfds:PATH"
)
# What stands behind the colon of a name.
FILES_OF = {
    "folder": "a folder of images",
    "table": "a CSV file",
    "tfds": "a data set or its folder",
}


@dataclass(frozen=True)
class Dataset:
    """An opened data set: facts about it, and its folder on disk.

    Attributes:
        reference: the name that opens it again, from any folder; `info.name` is for titles.
        data_dir: the folder of prepared data that it was opened in; None is the user's cache.
    """

    info: SourceInfo
    storage: Storage
    reference: str
    data_dir: str | None = None

    def __repr__(self) -> str:
        sizes = ", ".join(f"{split} {size}" for split, size in self.info.split_sizes.items())
        shape = "x".join("any" if size is None else str(size) for size in self.info.image_shape)
        return (
            f"Dataset({self.info.name!r}: {self.info.target.describe()}, {sizes}, images {shape})"
        )

    def split(self, name: str) -> Source:
        """Opens `train` or `validation`; a `DataError` where there is none, or for `test`."""
        if name == "test":
            raise DataError(
                f"The test split of {self.info.name} is locked, so that no choice can depend on "
                "it; only `cnn-lab evaluate --split=test` opens it.",
                where=self.info.name,
                found=name,
            )
        return _open_split(self, name)


def unlock_test(dataset: Dataset) -> Source:
    """Opens the test split, for the final evaluation only; a `DataError` where there is none."""
    return _open_split(dataset, "test")


def _open_split(dataset: Dataset, name: str) -> Source:
    if name not in dataset.info.split_sizes:
        where, allowed = dataset.info.name, ", ".join(sorted(dataset.info.split_sizes))
        problem = f"{where} has no split {name!r}; it has {allowed}."
        raise DataError(problem, where=where, found=name, allowed=allowed)
    return Source(dataset.storage, name, dataset.info)


def default_data_dir() -> Path:
    """The folder of prepared data: `$CNN_LAB_DATA_DIR`, or a folder in the user's cache."""
    chosen = os.environ.get("CNN_LAB_DATA_DIR")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "cnn_lab" / "data"


def open_dataset(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    from_dir: str | os.PathLike[str] | None = None,
    on_bad_files: Literal["error", "skip"] = "error",
    progress: Log | None = None,
    prepare: bool = True,
    descriptions: Mapping[str, DatasetDescription] = DATASETS,
) -> Dataset:
    """Opens a data set, preparing it first if this was not done before.

    Args:
        name: a name of `descriptions`, `folder:PATH`, `table:FILE`, `tfds:PATH` or
            `tfds:NAME[/config][:version]`.
        data_dir: folder of prepared data; by default `default_data_dir()`.
        from_dir: an existing folder with the published files; without it they are downloaded. Once
            a data set is prepared, what is in it is not looked at.
        on_bad_files: `error` refuses a folder with files that are no usable images, `skip` leaves
            those files out.
        progress: receives lines about downloads and checks.
        prepare: False refuses a data set that is not prepared; nothing is written then.
        descriptions: the published data sets that are known.

    Raises:
        ConfigError: there is no such name.
        DataError: the data are missing, damaged or unfit.

    >>> data = open_dataset("digits")
    >>> data.info.image_shape, data.info.num_classes
    ((8, 8, 1), 10)
    """
    _check_options(name, from_dir, on_bad_files, descriptions)
    root = _root(data_dir)
    refusal = None
    if not prepare:
        option = [] if data_dir is None else [f"--data_dir={os.fspath(data_dir)}"]
        command = shlex.join(["cnn-lab", "data", "prepare", name, *option])
        refusal = DataError(f"{name} is not prepared yet; run `{command}` first.", found=name)
    kind, colon, rest = name.partition(":")
    reference = name
    if colon and kind == "folder":
        path = Path(rest).expanduser().resolve()
        listed = functools.partial(list_folder, path, progress)
        directory = _files_directory(kind, path, listed, root, on_bad_files, progress, refusal)
        name, reference = f"folder:{directory.parent.name.rpartition('-')[0]}", f"{kind}:{path}"
    elif colon and kind == "table":
        path = Path(rest).expanduser().resolve()
        listed = functools.partial(list_table, path)
        directory = _files_directory(kind, path, listed, root, on_bad_files, progress, refusal)
        name, reference = f"table:{directory.parent.name.rpartition('-')[0]}", f"{kind}:{path}"
    elif colon and kind == "tfds":
        directory = _tfds_directory(rest, root)
        reference = f"{kind}:{directory.resolve()}"
    elif colon and kind == "arrays":
        raise DataError(
            f"{name} are arrays that were handed over in Python, and are on no disk; hand them "
            "over again, as by load_run(workdir, data=from_arrays(images, labels)).",
            where="config.data.name",
            found=name,
        )
    elif name in descriptions:
        directory = _published_directory(descriptions[name], root, from_dir, progress, refusal)
    else:
        raise _unknown(name, descriptions)
    storage, info = prepared.read_prepared(directory, name)
    chosen = None if data_dir is None else str(Path(data_dir).expanduser().resolve())
    return Dataset(info, storage, reference, chosen)


def check_name(name: str, data_dir: str | os.PathLike[str] | None = None) -> None:
    """Checks a name as far as that goes without opening or preparing anything.

    Raises:
        ConfigError: there is no such name.
        DataError: there is no such folder or table of images, and none was prepared from it.
    """
    kind, colon, rest = name.partition(":")
    if colon and kind in ("folder", "table"):
        path = Path(rest).expanduser().resolve()
        if not path.exists() and not _prepared_copies(kind, path, _root(data_dir)):
            list_folder(path) if kind == "folder" else list_table(path)  # which refuses it
    elif not (colon and kind in ("tfds", "arrays")) and name not in DATASETS:
        raise _unknown(name, DATASETS)


def _unknown(name: str, descriptions: Mapping[str, DatasetDescription]) -> ConfigError:
    problem = f"There is no data set named {name!r}"
    return ConfigError(problem, found=name, allowed=descriptions, advice=_OTHER_NAMES)


def _root(data_dir: str | os.PathLike[str] | None) -> Path:
    """The folder of prepared data."""
    return default_data_dir() if data_dir is None else Path(data_dir).expanduser()


def _check_options(
    name: str,
    from_dir: str | os.PathLike[str] | None,
    on_bad_files: str,
    descriptions: Mapping[str, DatasetDescription],
) -> None:
    """Refuses a name without its path, and options that would be ignored silently."""
    kind, colon, path = name.partition(":")
    if colon and not path and kind in FILES_OF:
        what = FILES_OF[kind]
        problem = f"{name!r} lacks what follows the colon; write {name}PATH with {what}."
        raise ConfigError(problem, found=name)
    published = descriptions.get(name)
    if from_dir is not None and (kind in FILES_OF or (published and not published.files)):
        raise ConfigError(
            f"--from_dir={os.fspath(from_dir)} was given, but {name} is not made from published "
            "files; leave it out.",
            where="--from_dir",
            found=os.fspath(from_dir),
        )
    if from_dir is not None:
        require_folder(from_dir)
    if on_bad_files == "skip" and kind not in ("folder", "table"):
        problem = f"--skip_bad_files is for folder:PATH and table:FILE; leave it out for {name}."
        raise ConfigError(problem, where="--skip_bad_files", found=name)


def _published_directory(
    description: DatasetDescription,
    root: Path,
    from_dir: str | os.PathLike[str] | None,
    progress: Log | None,
    refusal: DataError | None,
) -> Path:
    directory = root / description.name / PREPARED_VERSION
    if prepared.is_prepared(directory):
        return directory
    if refusal is not None:
        raise refusal
    from cnn_lab.data.datasets.builders import ArraysBuilder

    def make_builder(temporary: Path) -> ArraysBuilder:
        downloads = root / "downloads" / description.name
        files = obtain_files(description, downloads, from_dir=from_dir, progress=progress)
        if progress is not None:
            progress(f"preparing {description.name} in {directory}")
        return ArraysBuilder(description, files, data_dir=temporary)

    prepared.prepare(make_builder, directory, progress=progress)
    return directory


def _folder_of_copies(kind: str, path: Path, root: Path) -> Path:
    """Where what is prepared from a folder or table of images goes, a copy for each state of it."""
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    return root / kind / f"{path.name}-{digest}"


def _prepared_copies(kind: str, path: Path, root: Path) -> list[Path]:
    """What was prepared from a folder or table of images, the newest last."""
    copies = filter(prepared.is_prepared, _folder_of_copies(kind, path, root).glob("*"))
    return sorted(copies, key=lambda copy: (copy / prepared.INFO_FILE).stat().st_mtime_ns)


def _files_directory(
    kind: str,
    path: Path,
    list_files: Callable[[], Listing],
    root: Path,
    on_bad_files: str,
    progress: Log | None,
    refusal: DataError | None,
) -> Path:
    copies = _prepared_copies(kind, path, root)
    if copies and not path.exists():
        logging.info("%s is gone; using the copy that was prepared from it.", path)
        return copies[-1]
    listing = list_files()
    directory = _folder_of_copies(kind, path, root) / listing.fingerprint[:16]
    if prepared.is_prepared(directory):
        return directory
    if refusal is not None:
        raise refusal
    if copies:
        logging.info("%s has changed since it was prepared; preparing it again.", path)
    from cnn_lab.data.datasets.builders import FileImages

    folder = path if kind == "folder" else path.parent
    target = TargetSpec("class", listing.class_names)
    if listing.value_names:
        target = TargetSpec("numbers", listing.value_names)

    def make_builder(temporary: Path) -> FileImages:
        checked = check_files(folder, listing, on_bad_files=on_bad_files, progress=progress)
        if checked.bad:
            bad = describe_bad(checked.bad)
            logging.warning("Left out %d bad files of %s: %s.", len(checked.bad), path, bad)
        if progress is not None:
            progress(f"preparing {path} in {directory}")
        return FileImages(folder, checked, target, progress=progress, data_dir=temporary)

    prepared.prepare(make_builder, directory, num_bytes=listing.num_bytes, progress=progress)
    # A training that still reads the copy before this one keeps it; older ones would only add up.
    for copy in copies[: max(0, len(copies) + 1 - _MAX_FOLDER_COPIES)]:
        shutil.rmtree(copy, ignore_errors=True)
    return directory


def _tfds_directory(reference: str, root: Path) -> Path:
    path, given = Path(reference).expanduser(), f"tfds:{reference}"
    if prepared.is_prepared(path):
        return path
    roots = (root, Path.home() / "tensorflow_datasets")
    if reference.startswith(("/", ".", "~")) or not reference:
        raise DataError(
            f"{given} holds no {prepared.INFO_FILE}; name the folder of one version of a "
            "data set, such as ~/tensorflow_datasets/mnist/3.0.1.",
            where=str(path / prepared.INFO_FILE),
            found=given,
        )
    name, _, version = reference.partition(":")
    for parent in roots:
        candidates = [
            found
            for found in [*(parent / name).glob("*"), *(parent / name).glob("*/*")]
            if _VERSION.fullmatch(found.name)
            and version in ("", found.name)
            and prepared.is_prepared(found)
        ]
        folders = {candidate.parent for candidate in candidates}
        if len(folders) > 1:
            allowed = ", ".join(sorted(folder.name for folder in folders))
            problem = f"{parent / name} holds several configurations; choose one as in tfds:{name}"
            raise DataError(f"{problem}/CONFIG: {allowed}.", found=given, allowed=allowed)
        if candidates:
            return max(candidates, key=lambda found: [int(x) for x in found.name.split(".")])
    raise DataError(
        f"{given} is not prepared below {' or '.join(map(str, roots))}; prepare it there "
        "with tfds's download_and_prepare(file_format='array_record'), or name its folder.",
        found=given,
    )
